"""Locks on the host, of any stretch of a file alone: `stream_lock` by OpenSSL, others entry by entry."""

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from modellock_jax.ciphers.nonces import leaf_nonce, tree_key
from modellock_jax.vault._tensors import Tensor
from modellock_jax.vault.keys.secret import KeySource

SCHEME = "stream_lock()"  # needs no JAX, and no program to compile for each file's shapes
BLOCK, COUNTER = 64, 2**32  # bytes of a block, and blocks until the counter begins anew


class HostStream:
    """The key stream of a file's tensors, which lie one behind another in the order given."""

    __slots__ = ("_key", "_tensors")

    def __init__(self, source: KeySource, nonce: bytes, tensors: Sequence[Tensor]) -> None:
        key = source.for_lock(SCHEME).words(8).astype("<u4").tobytes()
        self._key, self._tensors = tree_key(key, nonce), tensors

    def change(self, start: int, data: Any) -> None:
        """Mask the bytes of the body from `start` on, in place, or unmask them."""
        for tensor, offset, part in _stretches(self._tensors, start, data):
            self._mask(tensor, offset, part)

    def _mask(self, tensor: Tensor, offset: int, part: memoryview) -> None:
        nonce = leaf_nonce(tensor.name).astype("<u4").tobytes()
        while part:
            number, skip = divmod(offset, BLOCK)
            high, low = divmod(number, COUNTER)
            now = part[: (COUNTER - low) * BLOCK - skip]
            part = part[len(now) :]
            # RFC 8439: the counter, and the nonce; a tensor's name is its path in the tree.
            begin = low.to_bytes(4, "little") + nonce + high.to_bytes(4, "little")
            cipher = Cipher(algorithms.ChaCha20(self._key, begin), mode=None).encryptor()
            cipher.update(bytes(skip))
            cipher.update_into(now, now)
            offset += len(now)


class HostEntries:
    """A lock that changes each entry alone: `change(name, first, entries)`, see `Files.in_pieces`."""

    __slots__ = ("_change", "_tensors")

    def __init__(
        self, change: Callable[[str, int, np.ndarray], None], tensors: Sequence[Tensor]
    ) -> None:
        self._change, self._tensors = change, tensors

    def change(self, start: int, data: Any) -> None:
        """Lock the entries in the bytes of the body from `start` on, in place, or open them."""
        for tensor, offset, part in _stretches(self._tensors, start, data):
            entries = np.frombuffer(part, np.uint8).view(tensor.dtype)
            self._change(tensor.name, offset // tensor.dtype.itemsize, entries)


def _stretches(
    tensors: Sequence[Tensor], start: int, data: Any
) -> Iterator[tuple[Tensor, int, memoryview]]:
    """Yield the parts of tensors that lie in `data`, which begins at `start`, and where in each."""
    at, view = start, memoryview(data).cast("B")
    number = bisect.bisect_right(tensors, start, key=lambda one: one.begin) - 1
    while view:
        tensor = tensors[number]
        part, view = view[: tensor.end - at], view[tensor.end - at :]
        if part:
            yield tensor, at - tensor.begin, part
        at, number = at + len(part), number + 1
