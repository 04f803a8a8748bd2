"""Where an entry lies, in trees far larger than any memory, against Python's own integers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import modellock_jax as ml
from modellock_jax.ciphers.wide import Wide
from modellock_jax.core.shards import Part
from modellock_jax.locks._places import place_of
from modellock_jax.locks._rows import number_of, stretch_of

# Whole shape, bytes of an entry, parts along each axis: the first two were wrong once, at 256 GiB and
# in the product of an axis of odd rows.
TREES = {
    "stacked layers": ((2**17, 2**20), 4, (2**17, 1)),
    "columns of bytes": ((100_663_296, 126), 1, (1, 2)),
    "both": ((2**20, 2**15, 30), 2, (16, 8, 5)),
    "one long axis": ((2**31 - 8,), 8, (8,)),
    "last axis of many": ((2**10, 2**10, 2**16), 4, (1, 1, 16)),
    "near 2^64 bytes": ((2**30, 2**30), 8, (2**20, 1)),
}


def part_of(shape, counts, numbers):
    names = tuple("x" if count > 1 else None for count in counts)
    own = tuple(size // count for size, count in zip(shape, counts))
    return Part(shape, tuple(jnp.int32(n) for n in numbers), names), own


def corners(counts):
    rng = np.random.default_rng(0)
    yield (0,) * len(counts)
    yield tuple(count - 1 for count in counts)
    yield from (tuple(int(rng.integers(0, count)) for count in counts) for _ in range(4))


@pytest.mark.parametrize("name", TREES)
def test_runs_begin_where_their_entries_lie(name):
    shape, size, counts = TREES[name]
    split = max((k for k, count in enumerate(counts) if count > 1), default=0)
    for numbers in corners(counts):
        part, own = part_of(shape, counts, numbers)
        runs = math.prod(own[:split])
        some = np.array([0, 1, runs // 3, 69_273_666, runs - 2, runs - 1]).clip(0, runs - 1)
        block, skip = place_of(part, own, size, jnp.asarray(some.astype(np.uint32)), split)
        for i, run in enumerate(some.tolist()):
            index = [*np.unravel_index(run, own[:split])] if split else []
            index += [0] * (len(shape) - split)
            entry = 0
            for k, n in enumerate(shape):
                entry = entry * n + numbers[k] * own[k] + int(index[k])
            found = int(block.high[i]) * 2**32 + int(block.low[i])
            assert (found, int(skip[i])) == divmod(entry, 64 // size)


@pytest.mark.parametrize("name", TREES)
def test_rows_of_the_digest_have_numbers_of_their_own(name):
    shape, size, _ = TREES[name]
    axis, length = stretch_of(shape, size)
    whole = (*shape[:axis], -(-shape[axis] // length))
    rng = np.random.default_rng(1)
    for _ in range(20):
        index = [int(rng.integers(0, n)) for n in whole]
        starts = [jnp.uint32(i * (length if k == axis else 1)) for k, i in enumerate(index)]
        number = number_of(shape, (1,) * (axis + 1), starts, length)
        expected = 0
        for i, n in zip(index, whole):
            expected = expected * n + i
        assert int(number.high[0]) * 2**32 + int(number.low[0]) == expected


def test_wide_numbers_are_pythons():
    rng = np.random.default_rng(2)
    for _ in range(200):
        draws = rng.integers(0, 2**64, 3, dtype=np.uint64) >> rng.integers(
            0, 64, 3, dtype=np.uint64
        )
        a, b, times = map(int, draws)
        shift = int(rng.integers(0, 32))
        one, other = (Wide(jnp.uint32(n >> 32), jnp.uint32(n & 0xFFFFFFFF)) for n in (a, b))
        for found, right in (
            (one + other, a + b), (one * times, a * times), (one >> shift, a >> shift)
        ):  # fmt: skip
            assert int(found.high) * 2**32 + int(found.low) == right % 2**64


def test_layers_of_a_leaf_above_256_gib_have_streams_of_their_own():
    """Layers 0 and 65536 of `(2**17, 2**20)` float32 once had one."""
    part = Part((2**17, 2**20), (jnp.int32(0), 0), ("layers", None), True)
    begins = []
    for layer in (0, 65536):
        block, _ = place_of(
            part._replace(numbers=(jnp.int32(layer), 0)), (1, 2**20), 4, jnp.zeros(1, jnp.uint32), 0
        )
        begins.append((int(block.high[0]), int(block.low[0])))
    assert begins == [(0, 0), (1, 0)]
    lock, leaf = ml.stream_lock(), jax.ShapeDtypeStruct((2**17, 2**20), jnp.float32)
    key = jax.eval_shape(lambda: lock.init(jax.random.key(0), jnp.zeros(1)))
    with pytest.raises(
        ValueError, match="one device holds more than 128 GiB of leaves; shard them"
    ):
        jax.eval_shape(lock.decrypt, key, leaf)
