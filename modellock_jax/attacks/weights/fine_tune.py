"""The fine-tuning thief: trains on the stolen weights with a little data of the same kind."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import optax
from jax import lax

from modellock_jax.attacks._programs import bind
from modellock_jax.attacks._train import fit_best_rate, task_score
from modellock_jax.attacks.attack import Attack, blank, sanitise
from modellock_jax.attacks.case import ANY, Case, Entry, Found
from modellock_jax.attacks.weights.localise import heal
from modellock_jax.core.lock import Params
from modellock_jax.core.paths import paths
from modellock_jax.flax import sites
from modellock_jax.models import Model
from modellock_jax.tasks import Task, classify
from modellock_jax.train import sgd_step

__all__ = ["ENTRIES", "VARIANTS", "Variant", "fine_tune", "in_last_layer"]

Variant = Literal["all", "last", "new_last", "healed"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def fine_tune(
    model: Model,
    learning_rate: Any,
    example: Any,
    variant: Variant = "all",
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
    task: Task = classify(),
) -> Attack:
    """Fine-tune without the key.

    Weights are sanitised first. A step takes `(x, y)`, inputs and truths, and gives the task's
    loss. Training from scratch is the same attack on freshly initialised weights: print it beside
    every figure.

    Args:
        model: The architecture.
        learning_rate: Of the optimiser; may be traced.
        example: Inputs `[B, ...]`, of which only shapes and dtypes count.
        variant: "all" layers; the "last" layer alone, the one that the model calls last;
            "new_last", all layers after the last one was drawn anew; "healed", all layers after
            clamped weights were put to their medians (`localise.heal`).
        optimizer: `optimizer(learning_rate)` of optax.
        task: What the model is for.

    Returns:
        An attack whose `step(state, (x, y))` gives the loss, a float32.

    Raises:
        ValueError: For an unknown variant.

    Threat model: the attacker has the architecture, the locked weights and labelled data; not the
    key.

    Source: the thief of Chakraborty et al. (2020) and AprilPyone & Kiya (2020); the variants as in
    Adi et al. (2018).
    """
    if variant not in VARIANTS:
        raise ValueError(f"fine_tune: variant is one of {', '.join(VARIANTS)}, not {variant!r}")
    optimise = optimizer(learning_rate)

    def train(params: Params, x: Any) -> Any:
        if variant == "last":
            params = jax.tree.map(
                lambda leaf, last: leaf if last else lax.stop_gradient(leaf),
                params,
                in_last_layer(model, params, example),
            )
        return model.train(params, x)

    def init(rng: jax.Array, locked: Params) -> Any:
        fresh = model.init(rng, blank(example))
        params = jax.jit(sanitise)(locked, fresh)
        if variant == "new_last":
            last = in_last_layer(model, params, example)
            params = jax.tree.map(lambda old, new, here: new if here else old, params, fresh, last)
        elif variant == "healed":
            params = jax.jit(heal)(params)
        return params, optimise.init(params)

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        (params, opt_state), (x, y) = state, batch
        params, opt_state, loss = sgd_step(train, optimise, params, opt_state, x, y, task.loss)
        return (params, opt_state), loss

    def forward(state: Any, x: Any) -> Any:
        return model.forward(state[0], x)

    return Attack(init, step, forward)


def in_last_layer(model: Model, params: Params, example: Any) -> Params:
    """Which leaves are of the layer that the model calls last: a tree like `params` of bools.

    Args:
        model: The architecture.
        params: Its parameters, a tree of arrays.
        example: Inputs `[B, ...]`, of which only shapes and dtypes count.

    Returns:
        A tree like `params` of bools.

    Raises:
        ValueError: Where no leaf lies at the path that the model taps last.

    >>> import jax, jax.numpy as jnp
    >>> from modellock_jax.models import mlp
    >>> model = mlp(2, widths=(3,))
    >>> params = model.init(jax.random.key(0), jnp.zeros((1, 1, 1, 2)))
    >>> in_last_layer(model, params, jnp.zeros((1, 1, 1, 2)))["params"]
    {'Dense_0': {'bias': False, 'kernel': False}, 'Dense_1': {'bias': True, 'kernel': True}}
    """
    site = [*sites(model.forward, params, blank(example))][-1]
    names = paths(params)
    # Linen puts the name of a collection before a layer's own path.
    for begin in (f"{site}/", f"params/{site}/"):
        found = jax.tree.map(lambda path, b=begin: path.startswith(b), names)
        if any(jax.tree.leaves(found)):
            return found
    raise ValueError(
        f"fine_tune: the forward taps {site!r} last, and no parameters lie at that path; name taps "
        'after the paths of their layers, or use the variant "all"'
    )


def _from(case: Case, start: Params, *, variant: Variant = "all", **settings: Any) -> Found:
    attack, score = bind(_tuning, case.model, variant, case.task), bind(task_score, case.task)
    return fit_best_rate(case, attack, score, start, *case.labels, **settings)


def _tuning(model: Model, variant: Variant, task: Task, rate: Any, example: Any) -> Attack:
    return fine_tune(model, rate, example, variant, task=task)


def _scratch(case: Case, **settings: Any) -> Found:
    start = case.model.init(jax.random.fold_in(case.rng, 1), case.example)
    return _from(case, start, **settings)


def _fine_tune(case: Case, **settings: Any) -> Found:
    return _from(case, case.locked, **settings)


ENTRIES = (
    Entry("scratch", _scratch, ANY, ("labels",), "control"),
    Entry("fine_tune", _fine_tune, ANY, ("labels",), "weights"),
)
