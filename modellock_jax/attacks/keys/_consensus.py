"""The signs on which symmetric matrices agree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from modellock_jax.attacks.keys._evidence import or_one

ROUNDS, STARTS = 5, 4


def cut(p: jax.Array, power: int) -> jax.Array:
    """Signs `[bits]` that nearly maximise s @ p @ s: those of the leading eigenvector, improved."""
    # Without a shift the power method may find the most negative eigenvalue.
    shift = jnp.abs(p).sum(1).max() / 4

    def iterate(_: int, v: jax.Array) -> jax.Array:
        v = p @ v + shift * v
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    def improve(carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        signs, worth, _ = carry
        new = _signs(p @ signs)
        better = new @ p @ new > worth
        return jnp.where(better, new, signs), jnp.maximum(worth, new @ p @ new), better

    start = jnp.asarray(np.random.default_rng(0).normal(size=len(p)), p.dtype)
    signs = _signs(lax.fori_loop(0, power, iterate, start))
    first = (signs, signs @ p @ signs, jnp.bool_(True))
    return lax.while_loop(lambda carry: carry[2], improve, first)[0]


def _signs(v: jax.Array) -> jax.Array:
    return jnp.where(v < 0, -1, 1).astype(v.dtype)


def fit(p: jax.Array, signs: jax.Array) -> jax.Array:
    return signs @ p @ signs / or_one(jnp.abs(p).sum())


def together(evidence: jax.Array, power: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Signs on which layers agree most, for or against, in squares; the weighted evidence; how far.

    A layer's weight is how far it agrees with the signs of before, so that the sum of squares grows.
    """

    def reweigh(_: int, carry: Any) -> Any:
        weights, *_ = carry
        p = jnp.tensordot(weights, evidence, 1)
        signs = cut(p, power)
        return _agreeing(evidence, signs), signs, p

    def run(weights: jax.Array) -> Any:
        start = (weights, jnp.ones_like(evidence[0, 0]), evidence[0])
        weights, signs, p = lax.fori_loop(0, ROUNDS, reweigh, start)
        return signs, p, (weights**2).sum()

    # Layers that are against the others would cancel them in a plain sum.
    starts = np.random.default_rng(0).choice([-1, 1], (STARTS, len(evidence)))
    starts[0] = 1
    found = lax.map(run, jnp.asarray(starts, evidence.dtype))
    return jax.tree.map(lambda of_all: of_all[found[2].argmax()], found)


def _agreeing(evidence: jax.Array, signs: jax.Array) -> jax.Array:
    return jnp.einsum("i,cij,j->c", signs, evidence, signs)
