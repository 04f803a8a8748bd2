"""Signs of gradient masking: when robustness is high only because gradients are bad."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax.attacks.evasion._adversarial import (
    Bounds,
    Classifier,
    Evasion,
    check,
    cross_entropy,
    with_key_axis,
)
from modellock_jax.attacks.evasion.auto_pgd import apgd
from modellock_jax.attacks.evasion.methods import square, transfer

__all__ = ["Flags", "gradient_masking"]


class Flags(NamedTuple):
    """Signs that an attack overstates robustness; float32 in [0, 1], each 0 if all is well.

    `zero_gradients`: share of inputs where the cross-entropy has no gradient, or one not finite.
    `random`: share of inputs whose logits differ between two calls, or between keys.
    `black_box`: share that withstands the attack and falls to one without gradients at the same eps.
    `unbounded`: share that withstands an eps as wide as the bounds, where every input is within reach.
    """

    zero_gradients: jax.Array
    random: jax.Array
    black_box: jax.Array
    unbounded: jax.Array


def gradient_masking(
    f: Classifier,
    x: jax.Array,
    y: jax.Array,
    eps: Any,
    rng: jax.Array,
    *,
    attack: Callable[..., Evasion] = apgd,
    surrogate: Classifier | None = None,
    queries: int = 500,
    bounds: Bounds = (0.0, 1.0),
) -> Flags:
    """Whether robustness against `attack(f, x, y, eps, rng, bounds=...)` is only due to bad gradients.

    The black-box attacks are `square` and, where a `surrogate` is given, `attack` on it,
    transferred. Compiles inside; not itself to be jitted, for two calls must stay two.

    Args:
        f: `f(x) -> logits`, `[B, classes]` or `[K, B, classes]`.
        x: Inputs, floats `[B, ...]` within the bounds.
        y: Labels, int `[B]`.
        eps: The largest change of an entry, above 0; may be traced.
        rng: A JAX PRNG key.
        attack: `attack(f, x, y, eps, rng, bounds=...)`.
        surrogate: A classifier of the attacker's own; None for none.
        queries: How often `square` asks, at least 1.
        bounds: The least and the largest value of an input.

    Returns:
        What speaks for gradient masking, float32 in [0, 1] each, 0 if all is well; see `Flags`.

    **Guarantees.** A flag raised proves nothing by itself, and nor do flags at zero.

    Source: the checks of Athalye et al. (2018) and of AutoAttack, Croce & Hein (2020).

    >>> import jax, jax.numpy as jnp
    >>> from modellock_jax.attacks.evasion.methods import fgsm
    >>> x, y = jax.random.uniform(jax.random.key(0), (9, 1, 1, 1)), jnp.zeros(9, jnp.int32)
    >>> def steps(x):  # a staircase: robust against gradients, not against guesses
    ...     return jnp.concatenate([1.0 - jnp.round(x), jnp.round(x)], -1).reshape(-1, 2)
    >>> def attack(f, x, y, eps, rng, bounds):
    ...     return fgsm(f, x, y, eps, bounds=bounds)
    >>> flags = gradient_masking(steps, x, y, 0.3, jax.random.key(1), attack=attack, queries=20)
    >>> float(flags.zero_gradients), bool(flags.black_box > 0), bool(flags.unbounded > 0)
    (1.0, True, True)
    """
    check(f, x, y, eps, queries, bounds)
    classify = jax.jit(f)
    first, again = (with_key_axis(classify(x)) for _ in range(2))
    # Two NaN are alike.
    alike = (first == again) & (first == first[:1])
    alike |= jnp.isnan(first) & jnp.isnan(again) & jnp.isnan(first[:1])

    def total(x: jax.Array) -> jax.Array:
        return jax.vmap(cross_entropy, (0, None))(with_key_axis(f(x)), y).mean(0).sum()

    gradient = jax.jit(jax.grad(total))(x)
    flat = (~jnp.isfinite(gradient) | (gradient == 0)).reshape(len(x), -1).all(1)
    white_rng, black_rng = jax.random.split(rng)
    attacked = jax.jit(lambda eps: attack(f, x, y, eps, white_rng, bounds=bounds))
    white, far = attacked(jnp.float32(eps)), attacked(jnp.float32(bounds[1] - bounds[0]))
    black = jax.jit(
        lambda: square(f, x, y, eps, black_rng, queries=queries, bounds=bounds)
    )().robust
    if surrogate is not None:
        made = jax.jit(lambda: attack(surrogate, x, y, eps, white_rng, bounds=bounds))().inputs
        black = jnp.minimum(black, jax.jit(lambda: transfer(f, x, y, made, bounds=bounds))().robust)
    return Flags(
        flat.mean(dtype=jnp.float32),
        1 - alike.all((0, 2)).mean(dtype=jnp.float32),
        jnp.maximum(white.robust - black, 0).mean(),
        far.share,
    )
