"""What weights locked by Deep-Lock say of its key schedule: which of them, and how likely."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from modellock_jax.attacks.keys._chains import Evidence, Search, links_of
from modellock_jax.ciphers import aes
from modellock_jax.core.lock import Params
from modellock_jax.locks._schedules import round_keys

__all__ = ["KINDS", "Kind", "Stretch", "byte_tables", "evidence_of", "pair_table", "stretches"]

_BLOCKS = {"byte": 515, "word": 2051}  # of a schedule, in one stretch


class Kind(NamedTuple):
    """How weights of one dtype are attacked.

    `scales`: guesses of their standard deviation, all at once if `blend`; by the size of the key,
    `byte` and `word` say how to search under either packing.
    """

    scales: tuple[float, ...]
    blend: bool
    byte: dict[int, Search]
    word: dict[int, Search]

    @property
    def guesses(self) -> list[tuple[float, ...]]:
        """Scales that are tried together, one try after the other."""
        return [self.scales] if self.blend else [(scale,) for scale in self.scales]


_WIDE = tuple(2.0**-i for i in range(10))
_FLOAT = Kind(
    _WIDE,
    True,
    {128: Search(18, 2**17, 8), 256: Search(18, 2**10, 8)},
    {128: Search(32, 2**12, 8), 256: Search(32, 2**10, 8)},
)
KINDS = {
    "float32": _FLOAT,
    "bfloat16": _FLOAT,
    "float16": Kind(
        _WIDE[1:7],
        False,
        {128: Search(48, 2**14, 4), 256: Search(48, 2**14, 4)},
        {128: Search(64, 2**12, 8), 256: Search(64, 2**12, 8)},
    ),
    "int8": Kind(
        (32.0, 16.0, 64.0),
        False,
        {128: Search(128, 2**15, 24), 256: Search(128, 2**17, 24)},
        {128: Search(64, 2**12, 8), 256: Search(64, 2**12, 8)},
    ),
}


class Stretch(NamedTuple):
    """Round keys in a row: the locked bytes that met them, uint8 `[round keys, 16]`, S-box undone.

    `kind`: `[round keys, 16]`, 1 + the place of a byte's dtype in `KINDS`, 0 where there is none;
    `start`: the number of its first round key.
    """

    seen: np.ndarray
    kind: np.ndarray
    start: int


def stretches(locked: Params, packing: str, unit: int, count: int = 4) -> list[Stretch]:
    """Cut the stretches that promise most out of a locked tree, through the leaves that they span.

    Args:
        locked: The tree.
        packing: The lock's.
        unit: Round keys to a block of the schedule, 1 or 2; stretches begin at a whole one.
        count: How many stretches at most.

    Returns:
        Stretches that do not begin in one another, those with most weights first, then those of
        fewest leaves, then those of the largest.
    """
    leaves, rounds = jax.tree.leaves(locked), round_keys(locked, packing)
    length, ends = _BLOCKS[packing] * unit, np.cumsum([0, *rounds])
    weigh = [n * (str(leaf.dtype) in KINDS) for leaf, n in zip(leaves, rounds)]
    cuts = []
    for i, n in enumerate(rounds):
        for first in range(0, n, length)[:count]:
            start = -(-int(ends[i] + first) // unit) * unit
            stop = min(start + length, int(ends[-1]))
            spans = [
                (j, max(0, min(stop, int(ends[j + 1])) - max(start, int(ends[j]))))
                for j in range(i, len(leaves))
                if ends[j] < stop
            ]
            useful = sum(m for j, m in spans if weigh[j])
            cuts.append((-useful, len(spans), -n, start, stop))
    chosen: list[tuple[int, int]] = []
    for useful, *_, start, stop in sorted(cuts):
        if useful and not any(a <= start < b for a, b in chosen) and len(chosen) < count:
            chosen.append((start, stop))
    return [_cut(leaves, ends, packing, *span) for span in chosen]


def _cut(leaves: list[Any], ends: np.ndarray, packing: str, start: int, stop: int) -> Stretch:
    names = list(KINDS)
    seen, kind = np.zeros((2, stop - start, 16), np.uint8)
    for leaf, first, last in zip(leaves, ends[:-1].tolist(), ends[1:].tolist()):
        a, b = max(start, first), min(stop, last)
        if a >= b or str(leaf.dtype) not in KINDS:
            continue
        size = leaf.dtype.itemsize
        each = size if packing == "word" else 16
        flat = np.asarray(leaf).reshape(-1)[(a - first) * each // size : (b - first) * each // size]
        own = aes.INV_SBOX[np.ascontiguousarray(flat).view(np.uint8)]
        there = np.pad(np.ones(own.size, np.uint8), (0, (b - a) * each - own.size))
        own = np.pad(own, (0, there.size - own.size))
        seen[a - start : b - start, :each] = own.reshape(-1, each)
        kind[a - start : b - start, :each] = there.reshape(-1, each) * (
            1 + names.index(str(leaf.dtype))
        )
    return Stretch(seen, kind, start)


def evidence_of(
    stretch: Stretch, words: int, packing: str, guess: int
) -> tuple[Evidence, str] | None:
    """Say what a stretch shows of the schedule.

    Args:
        stretch: Locked weights.
        words: Of the master key, 4 or 8.
        packing: The lock's.
        guess: Which of the guesses of the weights' scales, from 0.

    Returns:
        The evidence, and the dtype of most of the weights; None where there are too few.
    """
    # All of one length, so that one program searches all.
    there, blocks = stretch.seen.shape[0] * 4 // words, _BLOCKS[packing]
    seen, kind = np.zeros((2, blocks, words, 4), np.uint8)
    for whole, own in ((seen, stretch.seen), (kind, stretch.kind)):
        whole[:there] = own[: there * words // 4].reshape(there, words, 4)
    dtypes, counts = np.unique(kind[..., 0][kind[..., 0] > 0], return_counts=True)
    if not dtypes.size or there < 4 * (words + 8) + 3:
        return None
    most, names = int(dtypes[counts.argmax()]), list(KINDS)
    guesses = {name: KINDS[name].guesses for name in names}
    scales = {name: tries[min(guess, len(tries) - 1)] for name, tries in guesses.items()}
    block = stretch.start * 4 // words
    show = _bytes_shown if packing == "byte" else _changes_shown
    return show(seen, kind, scales, block, most), names[most - 1]


_Scales = dict[str, tuple[float, ...]]


def _bytes_shown(
    seen: np.ndarray, kind: np.ndarray, scales: _Scales, block: int, most: int
) -> Evidence:
    """Each byte of the last column (of each half) is one of a weight, XOR that of the schedule."""
    lanes, columns = np.array(links_of(seen.shape[1])).T
    tables = np.zeros((1 + len(KINDS), lanes.size, 256), np.float32)
    for i, name in enumerate(KINDS, 1):
        if (kind == i).any():  # what says nothing need not be looked up
            tables[i] = byte_tables(name, scales[name])[lanes]
    return Evidence(seen[:, columns, lanes], kind[:, columns, lanes], tables, block, 0, most, False)


def _changes_shown(
    seen: np.ndarray, kind: np.ndarray, scales: _Scales, block: int, most: int
) -> Evidence:
    """Top bytes of weights a block apart: what the schedule changes is an S-box image.

    That of the last column's next lane, and in the second half of that of the first half.
    """
    blocks, words, _ = seen.shape
    links, lane = links_of(words), jnp.dtype(list(KINDS)[most - 1]).itemsize - 1
    second = links.index(((lane + 1) % 4, words - 1))
    first = links.index((lane, 3)) if words == 8 else second
    tables = np.zeros((1 + len(KINDS), words, 256), np.float32)
    for i, name in enumerate(KINDS, 1):
        if jnp.dtype(name).itemsize == lane + 1 and (kind == i).any():
            tables[i, [first, second]] = pair_table(name, scales[name])
    seen, kind = seen[..., lane], kind[..., lane]
    change = seen[:-1] ^ seen[1:]
    alike = np.where(kind[:-1] == kind[1:], kind[1:], 0)
    if lane == 0:
        change[:, 0] ^= np.asarray(aes.rcon(jnp.asarray(block + np.arange(1, blocks))))
    shown, like = np.zeros((2, blocks, words), np.uint8)
    shown[:-1, second], like[:-1, second] = change[:, 0], alike[:, 0]
    if words == 8:
        shown[1:, first], like[1:, first] = change[:, 4], alike[:, 4]
    return Evidence(shown, like, tables, block, first, most, True)


def _drawn(dtype: str, scale: float) -> np.ndarray:
    """Bytes of weights of a standard deviation, uint8 `[weights, bytes]`.

    Drawn from a normal and a Laplace distribution, with a hundredth of zeros of either sign.
    """
    at = (np.arange(2**14) + 0.5) / 2**14
    normal = np.asarray(ndtri(at))
    laplace = -np.sign(at - 0.5) * np.log1p(-2 * np.abs(at - 0.5)) / math.sqrt(2)
    zeros = np.zeros(2**15 // 200)
    shape = np.concatenate([normal, laplace, zeros, -zeros])
    values = jnp.asarray(scale * shape, jnp.float32)
    if dtype == "int8":
        values = jnp.clip(jnp.round(values), -127, 127)
    return np.asarray(values.astype(dtype)).view(np.uint8).reshape(values.size, -1)


def _shares(drawn: np.ndarray, lane: int) -> np.ndarray:
    return np.bincount(drawn[:, lane], minlength=256) / len(drawn)


def _as_evidence(share: np.ndarray) -> np.ndarray:
    """How much likelier than chance, in bits, if a tenth may be anything."""
    bits = np.log2(256 * (0.9 * share + 0.1 / 256)).astype(np.float32)
    # What is nearly flat says nothing, and need not be looked up.
    return np.where(np.abs(bits).max(-1, keepdims=True) < 0.3, np.float32(0), bits)


@functools.cache
def byte_tables(dtype: str, scales: tuple[float, ...]) -> np.ndarray:
    """Say how much likelier than chance each byte of a weight is.

    Args:
        dtype: Of the weights.
        scales: Their standard deviations, all alike likely.

    Returns:
        Bits, by the lane where the byte lies in a word of 4 bytes, float32 `[4, 256]`.
    """
    drawn = np.concatenate([_drawn(dtype, scale) for scale in scales])
    return _as_evidence(np.stack([_shares(drawn, lane % drawn.shape[1]) for lane in range(4)]))


@functools.cache
def pair_table(dtype: str, scales: tuple[float, ...]) -> np.ndarray:
    """Say how much likelier than chance is the XOR of top bytes of two weights of one scale.

    Args:
        dtype: Of the weights.
        scales: Their standard deviations, all alike likely.

    Returns:
        Bits, float32 `[256]`.
    """
    other = np.arange(256)[:, None] ^ np.arange(256)
    tops = [_shares(_drawn(dtype, scale), -1) for scale in scales]
    return _as_evidence(np.mean([top @ top[other] for top in tops], axis=0))
