"""`stream_lock` on the host: the same bits by OpenSSL, of any stretch of a file alone."""

import bisect
from collections.abc import Sequence
from typing import Any

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

    def xor(self, start: int, data: Any) -> None:
        """Mask the bytes of the body from `start` on, in place, or unmask them."""
        at, view = start, memoryview(data).cast("B")
        number = bisect.bisect_right(self._tensors, start, key=lambda one: one.begin) - 1
        while view:
            tensor = self._tensors[number]
            part, view = view[: tensor.end - at], view[tensor.end - at :]
            self._mask(tensor, at - tensor.begin, part)
            at, number = at + len(part), number + 1

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
