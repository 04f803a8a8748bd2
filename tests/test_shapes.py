"""Shapes that annotations tie together: right calls keep them, and others are refused."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

import modellock_jax
from modellock_jax.attacks import (
    negative_from_weights,
    permutation_from_base,
    permutation_from_weights,
)
from modellock_jax.attacks.evasion import _adversarial, methods
from modellock_jax.attacks.keys import chosen_image, chosen_levels, sign_search
from modellock_jax.attacks.weights import localise, sweep
from modellock_jax.ciphers import aes, chacha
from modellock_jax.core import bits
from modellock_jax.tasks import logits


def zeros(*shape, dtype=jnp.float32):
    return jax.device_put(np.zeros(shape, dtype))  # compiles nothing


def labels(*shape):
    return zeros(*shape, dtype=jnp.int32)


def words(*shape):
    return zeros(*shape, dtype=jnp.uint32)


def truth(*shape):
    return zeros(*shape, dtype=jnp.bool_)


def classifier(x):
    return x.reshape(len(x), -1)


RNG = jax.random.key(0)
# Of each function a call whose shapes fit, and calls in which one array has another shape or kind.
CALLS = {
    logits.cross_entropy: [
        (zeros(4, 3), labels(4)), (zeros(4, 3), labels(3)), (zeros(4, 5, 3), labels(4)),
    ],
    logits.margin_loss: [(zeros(4, 5, 3), labels(4, 5)), (zeros(4, 5, 3), labels(4, 3))],
    logits.kl_divergence: [(zeros(4, 3), zeros(4, 3)), (zeros(4, 3), zeros(4, 2))],
    _adversarial.cross_entropy: [(zeros(4, 3), labels(4)), (zeros(4, 3), labels(3))],
    _adversarial.margin: [(zeros(4, 3), labels(4)), (zeros(4, 3), zeros(4))],
    _adversarial.dlr: [(zeros(4, 3), labels(4)), (zeros(4, 3), labels(4, 1))],
    methods.fgsm: [
        (classifier, zeros(4, 2), labels(4), 0.1), (classifier, zeros(4, 2), labels(3), 0.1),
    ],
    methods.pgd: [
        (classifier, zeros(4, 2), labels(4), 0.1, RNG), (classifier, zeros(4, 2), zeros(4), 0.1, RNG),
    ],
    methods.square: [
        (classifier, zeros(4, 2, 2, 1), labels(4), 0.1, RNG),
        (classifier, zeros(4, 4), labels(4), 0.1, RNG),
    ],
    methods.transfer: [
        (classifier, zeros(4, 2), labels(4), zeros(4, 2)),
        (classifier, zeros(4, 2), labels(4), zeros(4, 3)),
    ],
    chosen_image.pixel_shuffle_known_pairs: [
        (zeros(2, 4, 4, 1), zeros(2, 4, 4, 1), 2), (zeros(2, 4, 4, 1), zeros(2, 4, 2, 1), 2),
    ],
    chosen_levels.negative_positive_chosen_image: [
        (zeros(1, 4, 4, 1, dtype=jnp.uint8), 2), (zeros(2, 4, 4, 1, dtype=jnp.uint8), 2),
        (zeros(1, 4, 4, 1), 2),
    ],
    negative_from_weights: [(zeros(4, 4, 6), 2, (4, 4, 1)), (zeros(4, 24), 2, (4, 4, 1))],
    permutation_from_weights: [(zeros(4, 4, 6), 2, (4, 4, 1)), (zeros(4, 24), 2, (4, 4, 1))],
    sign_search.lowest_sets: [(zeros(2, 5),), (zeros(5),), (labels(2, 5),)],
    permutation_from_base: [(zeros(6, 4), zeros(6, 4)), (zeros(6, 4), zeros(5, 4))],
    localise.roc: [(zeros(5), truth(5)), (zeros(5), truth(4)), (zeros(5), labels(5))],
    sweep.best_so_far: [(zeros(3, 4), zeros(3, 4)), (zeros(3, 4), zeros(4, 3))],
    aes.key_schedule: [(words(4), 11), (words(2, 4), 11), (labels(4), 11)],
    aes.encrypt: [(words(4), words(1, 4)), (words(4), words(5, 8))],
    chacha.prf: [(words(8), words(4)), (words(8), words(3)), (words(4), words(4))],
    chacha.words: [(words(8), [words()] * 3, words(2, 5)), (words(4), [words()] * 3, words(2, 5))],
    bits.substitute: [
        (words(3), zeros(256, dtype=jnp.uint8)), (zeros(3), zeros(256, dtype=jnp.uint8)),
        (words(3), zeros(255, dtype=jnp.uint8)),
    ],
    bits.to_blocks: [(zeros(5), 2)],
}  # fmt: skip
SHORT = {methods.pgd: {"steps": 1}, methods.square: {"queries": 1}}
ON_THE_HOST = {negative_from_weights}


def annotated():
    """Every function of the package with shapes in its signature."""
    for module in pkgutil.walk_packages(modellock_jax.__path__, "modellock_jax."):
        if module.name.endswith("__main__"):
            continue
        for _, thing in inspect.getmembers(importlib.import_module(module.name), callable):
            plain = inspect.unwrap(thing)
            if inspect.isfunction(plain) and plain.__module__ == module.name:
                kinds = plain.__annotations__.values()
                if any(inspect.isclass(k) and issubclass(k, AbstractArray) for k in kinds):
                    yield thing


def test_every_signature_with_shapes_is_checked():
    assert set(annotated()) == set(CALLS)


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__qualname__)
def test_shapes_that_fit_are_taken_and_others_refused(function):
    checked = jaxtyped(typechecker=beartype)(function)
    right, *wrong = CALLS[function]

    def call_it():
        return checked(*right, **SHORT.get(function, {}))

    # To see the shapes nothing need be compiled.
    call_it() if function in ON_THE_HOST else jax.eval_shape(call_it)
    for call in wrong:
        with pytest.raises(TypeCheckError, match="Type-check error"):
            checked(*call)


def test_a_result_of_another_shape_is_refused():
    def transposed(merit, loss):
        return sweep.best_so_far(merit.T, loss.T)

    transposed.__annotations__ = sweep.best_so_far.__annotations__
    with pytest.raises(TypeCheckError, match="return value"):
        jaxtyped(typechecker=beartype)(transposed)(zeros(3, 4), zeros(3, 4))
