"""stream_lock: XOR with ChaCha20, the hardened counterpart of Deep-Lock. Our own scheme.

What it computes is imported where it is used, because who opens a file need not wait for JAX.
"""

from typing import TYPE_CHECKING, Any

from modellock_jax.locks._scheme import Files, Scheme, flip_one_bit

if TYPE_CHECKING:
    from modellock_jax.core.lock import Lock, Params

__all__ = ["SCHEME", "in_jax", "is_compiled", "stream_lock"]


def stream_lock() -> "Lock":
    """XOR every leaf with ChaCha20 under a 256-bit key and a nonce that depends on all that is locked.

    Leaves: floats and integers of 1, 2, 4 or 8 bytes, as little-endian bytes in C order. `encrypt`
    finishes the key: its new nonce is a keyed function of the old one and of path, shape, dtype, place
    and bits of every leaf. Key and nonce give the tree's key; a leaf's nonce is 64 bits of SHA-256 of
    its path and the upper half of the block's number, whose lower half is the counter, from 0 on (RFC
    8439). So any part of any leaf can be decrypted alone, with the finished key.

    On CPUs compiled calls sum what is locked and open leaves, where `native/` of a clone is installed;
    the bits are those of JAX alone, which serves accelerators, `vmap` over keys and `jax.export`.

    Under `jax_debug_nans` a `jit` of your own that returns locked floats raises, since JAX searches all
    that it returns for NaN, and a lock cannot prevent it: call `encrypt` outside, or return the bits.

    Returns:
        A lock with `init`, `encrypt` and `decrypt`; its key is a `StreamKey`.

    Raises:
        TypeError: For leaves that are not whole bytes, and when differentiated.
        ValueError: Where two places in the tree read alike.

    **Guarantees.** decrypt inverts encrypt on bits. Against someone who has locked trees but not the
    key, their bits are as good as random if ChaCha20 is a pseudo-random function, but that equal trees
    under one unfinished key are equal bits. Two other trees, or the same from another nonce, share a
    stream with probability at most 2^-95: a model may be trained on and locked again under the same
    key. Shapes, dtypes and names stay in the open. No integrity: who can write the file can flip
    chosen bits, and a wrong key gives other weights and no error. Whoever runs the model holds the
    plain parameters. Of a sharded leaf each device makes its own part of the key stream; in decrypt no
    device talks to another, in encrypt they add up 32 bytes, once. (On TPUs with automatic axes they
    do so for each leaf, once for each of its axes that is split.) Inside a `shard_map` a device's part
    is a tree of its own: its key is finished there, and opens it there.

    Source: ours; the cipher is RFC 8439 (Nir & Langley 2018), and a nonce that depends on the plain
    text is the idea of SIV (Rogaway & Shrimpton 2006).

    >>> import jax, modellock_jax as ml
    >>> params = {"w": jax.numpy.array([1.0, -0.0, jax.numpy.nan])}
    >>> lock = ml.stream_lock()
    >>> locked, key = lock.encrypt(lock.init(jax.random.key(0), params), params)
    >>> lock.decrypt(key, locked)["w"].tolist()
    [1.0, -0.0, nan]
    """
    from modellock_jax.locks import _stream_tree

    return _stream_tree.xor_lock(compiled=True)


def in_jax() -> "Lock":
    """Make `stream_lock` by JAX alone, even where the compiled calls are installed: its oracle.

    Returns:
        A lock of the same bits.
    """
    from modellock_jax.locks import _stream_tree

    return _stream_tree.xor_lock(compiled=False)


def is_compiled() -> bool:
    """Say whether `native/` is installed, so that a CPU opens leaves by a compiled call.

    Returns:
        True where it is.
    """
    from modellock_jax.ciphers import native

    return native.has_chacha20()


def _key_bits(params: "Params", sites: Any) -> float:
    """Count the key space in bits."""
    return 256.0


SCHEME = Scheme(
    name="stream_lock",
    factory=stream_lock,
    paper="ours; ChaCha20 is RFC 8439",
    acts="weights: every bit, by ChaCha20",
    trained_under=False,
    protects="Every bit is masked with ChaCha20 (RFC 8439) under a nonce that depends on all that is "
    "locked: without the key the bits tell nothing, but that equal models under one key are equal.",
    lies_open="Names, shapes and dtypes lie open; in memory nothing notices a changed bit (the file "
    "does).",
    near=flip_one_bit,
    bits=_key_bits,
    study="stream_lock",
    files=Files(),
)
