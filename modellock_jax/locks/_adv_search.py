"""The search of `adv_params`: layer by layer, each on the devices where it lies."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.ciphers import chacha
from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.locks._adv_pool import pool_of
from modellock_jax.locks._entries import write, write_one


@dataclasses.dataclass(frozen=True)
class Settings:
    """Those of `adv_params`."""

    count: int
    step: float
    margin: float
    budget: int
    pool: float
    stop: float


class Changes(NamedTuple):
    """The weights changed so far, `[count]` each, by the iteration that changed them first.

    `layer`: int32, the layer's number among the layers, -1 where unused. `position`: int32, in C order.
    `bits`: uint32, the true bits. `value`: float32, what the weight is now. `uses`: int32.
    """

    layer: jax.Array
    position: jax.Array
    bits: jax.Array
    value: jax.Array
    uses: jax.Array


class _Best(NamedTuple):
    """The weight of a layer for which gradient times change is largest; a gain of -1 where none gains.

    `gain`, `value`: float32; `position`: int32; `bits`, uint32: of the weight before, and `new` after.
    """

    gain: jax.Array
    position: jax.Array
    value: jax.Array
    bits: jax.Array
    new: jax.Array


class _State(NamedTuple):
    layers: list[jax.Array]  # as `_carried`
    free: list[jax.Array]  # uint8: in the pool, and uses left
    changes: Changes
    iteration: jax.Array
    goes_on: jax.Array
    is_finite: jax.Array  # whether the loss of the true weights is


def search(
    settings: Settings,
    seed: jax.Array,
    layers: Sequence[jax.Array],
    loss: Callable[[list[jax.Array]], jax.Array],
) -> tuple[list[jax.Array], Changes, jax.Array]:
    """Climb the loss of the layers: they as changed, the changes, and whether the first loss is finite.

    `seed`: uint32 `[8]`. An iteration is one gradient and one pass over the layers. Beside the
    layers there are a gradient and a byte for each weight; devices exchange a maximum over a layer
    and where it is.
    """
    count, dtypes = settings.count, [layer.dtype for layer in layers]
    low, high = ([f(layer.astype(jnp.float32)) for layer in layers] for f in (jnp.min, jnp.max))
    # Half of the layers each iteration, and at least the one with the smallest draw.
    blocks = jnp.arange(-(-count * len(layers) // 16), dtype=jnp.uint32)
    draws = chacha.blocks(seed, jnp.array([1, 0, 0], jnp.uint32), blocks).ravel()
    draws = draws[: count * len(layers)].reshape(count, len(layers))
    is_open = draws <= jnp.maximum(jnp.uint32(2**31), draws.min(1, keepdims=True))

    def iterate(s: _State) -> _State:
        now = [_opened(carried, dtype) for carried, dtype in zip(s.layers, dtypes)]
        value, gradients = jax.value_and_grad(loss)(now)
        goes_on = value <= settings.stop
        values = _values(settings.budget, s.changes, now)
        each = [_best(settings, *given) for given in zip(gradients, values, now, s.free, low, high)]
        best = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        layer = jnp.argmax(jnp.where(is_open[s.iteration], best.gain, -1.0)).astype(jnp.int32)
        best = jax.tree.map(lambda leaves: leaves[layer], best)
        is_found = goes_on & is_open[s.iteration, layer] & (best.gain > 0)
        changes, uses = _changed(s.changes, is_found, s.iteration, layer, best)

        is_spent = is_found & (uses >= settings.budget)
        at = jnp.where(jnp.stack([is_found, is_spent]), layer, -1)
        bits = jnp.stack([best.new, jnp.uint32(0)])
        numbers = [(n, which) for which in (0, 1) for n in range(len(now))]
        position = jnp.broadcast_to(best.position, (2,))
        written = write_one(numbers, (at, position, bits), [*s.layers, *s.free])
        return _State(
            written[: len(now)],
            written[len(now) :],
            changes,
            s.iteration + 1,
            goes_on,
            jnp.where(s.iteration == 0, jnp.isfinite(value), s.is_finite),
        )

    none = jnp.full(count, -1, jnp.int32)
    zero = jnp.zeros(count, jnp.uint32)
    start = _State(
        [_carried(layer) for layer in layers],
        pool_of(seed, settings.pool, layers),
        Changes(none, none, zero, jnp.zeros(count, jnp.float32), jnp.zeros(count, jnp.int32)),
        jnp.int32(0),
        jnp.bool_(True),
        jnp.bool_(True),
    )
    end = lax.while_loop(lambda s: (s.iteration < count) & s.goes_on, iterate, start)
    found = [_opened(carried, dtype) for carried, dtype in zip(end.layers, dtypes)]
    return found, end.changes, end.is_finite


def _carried(layer: jax.Array) -> jax.Array:
    """Return what a loop may carry: it may quiet NaNs of narrow floats, so those as unsigned integers.

    A float32 goes as it is: as an integer it would need memory of its own beside the result.
    """
    return layer if layer.dtype == jnp.float32 else to_uint(layer)


def _opened(carried: jax.Array, dtype: Any) -> jax.Array:
    return carried if carried.dtype == dtype else from_uint(carried, dtype)


def _values(budget: int, changes: Changes, layers: list[jax.Array]) -> list[jax.Array]:
    """Return the weights, float32; those of narrow layers that may change again are not rounded."""
    values = [layer.astype(jnp.float32) for layer in layers]
    narrow = [n for n, layer in enumerate(layers) if layer.dtype != jnp.float32]
    if budget > 1 and narrow:
        at = changes.layer, changes.position, changes.value
        for n, whole in zip(narrow, write(narrow, at, [values[n] for n in narrow])):
            values[n] = whole
    return values


@partial(jax.jit, static_argnums=0)
def _best(
    settings: Settings,
    gradient: jax.Array,
    values: jax.Array,
    layer: jax.Array,
    free: jax.Array,
    low: jax.Array,
    high: jax.Array,
) -> _Best:
    gradient = gradient.astype(jnp.float32)
    inset = settings.margin * (high - low)
    moved = values + settings.step * (high - low) * jnp.sign(gradient)
    moved = jnp.clip(moved, low + inset, high - inset)
    gain = gradient * (moved - values)
    is_free = (free != 0) & (values > low) & (values < high) & (gain > 0)
    position = jnp.zeros(layer.shape, jnp.int32)
    for k in range(layer.ndim):
        step = math.prod(layer.shape[k + 1 :])
        position += step * lax.broadcasted_iota(jnp.int32, layer.shape, k)

    def better(a: Any, b: Any) -> Any:
        first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        return tuple(jnp.where(first, x, y) for x, y in zip(a, b))

    bits = to_uint(layer).astype(jnp.uint32)
    none = jnp.float32(-1), jnp.int32(2**31 - 1), jnp.float32(0), jnp.uint32(0)
    gains = jnp.where(is_free, gain, -1.0)
    # One pass over the layer, in no memory of its own.
    found = lax.reduce((gains, position, moved, bits), none, better, range(layer.ndim))
    new = to_uint(found[2].astype(layer.dtype)).astype(jnp.uint32)
    gain, position, value, bits = found
    return _Best(gain, position, value, bits, new)


def _changed(
    changes: Changes, is_found: jax.Array, iteration: jax.Array, layer: jax.Array, best: _Best
) -> tuple[Changes, jax.Array]:
    """Return the changes with one more, if it is found, and how often its weight has changed then."""
    same = (changes.layer == layer) & (changes.position == best.position)
    is_again = same.any()
    at = jnp.where(is_again, jnp.argmax(same).astype(jnp.int32), iteration)
    uses = jnp.where(is_again, changes.uses[at], 0) + 1
    bits = jnp.where(is_again, changes.bits[at], best.bits)
    at = jnp.where(is_found, at, changes.layer.shape[0])
    new = Changes(layer, best.position, bits, best.value, uses)
    return jax.tree.map(lambda a, b: a.at[at].set(b, mode="drop"), changes, new), uses
