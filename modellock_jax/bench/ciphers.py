"""Bytes per second of every lock on weights, beside copies, XOR and OpenSSL."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import modellock_jax as ml
from modellock_jax.bench.timing import MIB, Row, alternate, row
from modellock_jax.core.bits import from_uint, to_uint
from modellock_jax.locks import SCHEMES, parse
from modellock_jax.locks.adv_params import AdvParamsKey
from modellock_jax.locks.stream_lock import in_jax, is_compiled

__all__ = ["DTYPES", "LOCKS", "limits", "measure", "programs", "weights"]

DTYPES = ("float32", "bfloat16", "int8")
_CHANGED = 48
_ALL_CORES = "OpenSSL ChaCha20, all cores"
_POOL = ThreadPoolExecutor(os.cpu_count())
_NO_CALL = "without the compiled call; `pip install ./native` adds it"
# Those of lock texts that the weights here decide.
_SETTINGS = {"patch_shuffle": "patch_shuffle(patch=16, channels=1)"}
LOCKS: dict[str, Callable[[], ml.Lock]] = {
    **{
        name: partial(getattr, parse(_SETTINGS.get(name, name)), "lock")
        for name, scheme in SCHEMES.items()
        if scheme.locks_files  # so it needs no loss
    },
    "deep_lock restart=leaf": partial(ml.deep_lock, restart="leaf"),
    "stream_lock, JAX alone": in_jax,
    "adv_params": partial(ml.adv_params, count=_CHANGED),
}


def weights(dtype: str, leaves: int = 16, size: int = MIB) -> Any:
    """Draw kernels: a patch embedding `[256, D]`, and others `[512, D]`.

    Args:
        dtype: Theirs, as "float32".
        leaves: How many, at least 1.
        size: Bytes of each.

    Returns:
        A tree of arrays.
    """
    width = jnp.dtype(dtype).itemsize

    def leaf(rng: jax.Array, rows: int) -> jax.Array:
        drawn = 40 * jax.random.normal(rng, (rows, size // width // rows))
        return drawn.astype(dtype)

    rngs = jax.random.split(jax.random.key(0), leaves)
    tree = {f"layer{i:02d}": {"kernel": leaf(r, 512)} for i, r in enumerate(rngs[1:])}
    return {"embed": {"kernel": leaf(rngs[0], 256)}} | tree


def programs(name: str, params: Any) -> dict[str, tuple[Any, Any, Any]]:
    """Return a lock's jitted `encrypt` and `decrypt`, each with its key and parameters.

    adv_params has decrypt alone, with a key that points at random entries: its encrypt is a search.

    Args:
        name: The lock's.
        params: A tree of arrays.

    Returns:
        By way, the compiled function, its key and what it is given.
    """
    lock = LOCKS[name]()
    if name == "adv_params":
        rngs, leaves = jax.random.split(jax.random.key(1)), jax.tree.leaves(params)
        smallest = min(leaf.size for leaf in leaves)
        key: Any = AdvParamsKey(
            jnp.zeros(8, jnp.uint32),
            jax.random.randint(rngs[0], (_CHANGED,), 0, len(leaves)),
            jax.random.randint(rngs[1], (_CHANGED,), 0, smallest),
            jnp.zeros(_CHANGED, jnp.uint32),
        )
        return {"decrypt": (jax.jit(lock.decrypt), key, params)}
    encrypt = jax.jit(lambda key, params: lock.encrypt(key, params)[0])
    key = lock.init(jax.random.key(1), params)
    return {
        "encrypt": (encrypt, key, params),
        "decrypt": (jax.jit(lock.decrypt), key, encrypt(key, params)),
    }


def limits(params: Any) -> dict[str, Callable[[], Any]]:
    """Time what the locks compete with, on the same bytes.

    Args:
        params: A tree of arrays.

    Returns:
        Calls by name.
    """
    secret = bytes(range(32))
    buffers = [np.asarray(leaf).view(np.uint8).reshape(-1) for leaf in jax.tree.leaves(params)]
    xor = jax.jit(lambda p, word: jax.tree.map(lambda a: _xor(a, word), p))
    word = jnp.uint32(0x5A5A5A5A)

    outputs = [bytearray(buffer.nbytes + 64) for buffer in buffers]  # OpenSSL allocates nothing

    def host(algorithm: Any, mode: Any, over: Callable[..., Any] = map) -> Callable[[], Any]:
        def one(buffer: np.ndarray, output: bytearray) -> None:
            Cipher(algorithm, mode).encryptor().update_into(buffer.data, output)

        return lambda: list(over(one, buffers, outputs))

    chacha = algorithms.ChaCha20(secret, secret[:16])
    return {
        "memcpy": lambda: [np.copy(b) for b in buffers],
        "jnp XOR": lambda: xor(params, word),
        "OpenSSL AES-128-CTR": host(algorithms.AES(secret[:16]), modes.CTR(secret[:16])),
        "OpenSSL ChaCha20": host(chacha, None),
        _ALL_CORES: host(chacha, None, _POOL.map),
    }


def _xor(leaf: jax.Array, word: jax.Array) -> jax.Array:
    uint = to_uint(leaf)
    return from_uint(uint ^ word.astype(uint.dtype), leaf.dtype)


def measure(quick: bool) -> list[Row]:
    """Measure GB/s of encrypt and decrypt by lock and dtype, all of one dtype and way in turns.

    Args:
        quick: Whether to take small sizes and few rounds.

    Returns:
        The lines of the table.
    """
    leaves, size = (2, 2**14) if quick else (16, MIB)
    rows = []
    for dtype in DTYPES:
        params = weights(dtype, leaves, size)
        calls: dict[str, dict[str, Any]] = {"encrypt": limits(params), "decrypt": limits(params)}
        for name in LOCKS:
            if name == "adv_params" and dtype == "int8":
                continue  # its layers are floats
            for way, (program, key, given) in programs(name, params).items():
                calls[way][name] = lambda f=program, k=key, p=given: f(k, p)
        for way, contestants in calls.items():
            seconds = alternate(contestants, 0.0 if quick else 4.0)
            for name, taken in seconds.items():
                limit = "OpenSSL ChaCha20" if name.startswith("stream_lock") else "memcpy"
                wanted = dtype == "float32" and way == "decrypt"
                rate = leaves * size / 1e9 / float(np.median(taken))
                case = f"{way} {dtype}"
                ratios = None if name == limit else taken / seconds[limit]
                target = 1.5 if wanted and name == "stream_lock" else None
                alone = target is not None and not is_compiled()
                rows.append(
                    row("ciphers", case, name, rate, "GB/s", limit=limit, ratios=ratios,
                        sense="<=", target=target, note=_NO_CALL if alone else "")
                )  # fmt: skip
                if wanted and name == "deep_lock":
                    rows.append(row("ciphers", case, f"{name}, rate", rate, "GB/s", target=1.5))
                if target is not None:
                    rows.append(
                        row("ciphers", case, f"{name}, beside all cores", rate, "GB/s", limit=_ALL_CORES,
                            ratios=taken / seconds[_ALL_CORES], sense="<=", target=target)
                    )  # fmt: skip
        rows += _beside_decrypt(dtype, params, 0.0 if quick else 1.0)
    return rows


def _beside_decrypt(dtype: str, params: Any, seconds: float) -> list[Row]:
    """Return what the digest of all that is locked adds to `encrypt`."""
    rows = []
    for name in (name for name in LOCKS if name.startswith("stream_lock")):
        ways = {
            way: lambda f=program, k=key, p=given: f(k, p)
            for way, (program, key, given) in programs(name, params).items()
        }
        taken = alternate(ways, seconds)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        rate = size / 1e9 / float(np.median(taken["encrypt"]))
        rows.append(
            row("ciphers", f"encrypt {dtype}, beside decrypt", name, rate, "GB/s", limit="its decrypt",
                ratios=taken["encrypt"] / taken["decrypt"], sense="<=", target=3.0)
        )  # fmt: skip
    return rows
