"""One table of all locks and of chains of two to four: a new lock is in it by its record."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import modellock_jax as ml
from modellock_jax.locks import SCHEMES, parse

DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "int32"]
FEW = ["bfloat16", "int8"]


class Programs(NamedTuple):
    make: Callable[..., Any]  # (rng, params) -> (locked, key)
    decrypt: Callable[..., Any]
    owner: Callable[..., Any]
    user: Callable[..., Any]


class Case:
    """A lock, the scheme of each of its links, and its programs: compiled once, not once a test.

    Its leaves are of a few dtypes: test_scale.py has all of them.
    """

    def __init__(self, lock: ml.Lock, *schemes: str):
        self.lock, self.schemes, self.traces = lock, schemes, 0
        self.params = functools.cache(lambda: make_params(dtypes=FEW))

        def counted(params: Any, x: jax.Array, tap: ml.Tap) -> jax.Array:
            self.traces += 1
            return forward(params, x, tap)

        self.eager = Programs(
            self._make,
            lock.decrypt,
            ml.owner_forward(lock, forward),
            ml.user_forward(lock, forward),
        )
        self.jit = Programs(
            jax.jit(self._make),
            jax.jit(lock.decrypt),
            jax.jit(ml.owner_forward(lock, forward)),
            jax.jit(ml.user_forward(lock, counted)),
        )
        self.pair = functools.cache(lambda seed: self.jit.make(jax.random.key(seed), self.params()))
        self.eager_pair = functools.cache(
            lambda seed: self._make(jax.random.key(seed), self.params())
        )

    def _make(self, rng: jax.Array, params: Any) -> tuple[Any, Any]:
        return self.lock.encrypt(self.lock.init(rng, params), params, loss)

    def near(self, rng: jax.Array, key: Any, link: int = 0) -> Any:
        """The key with one bit or swap off in one link."""
        if len(self.schemes) == 1:
            return SCHEMES[self.schemes[0]].near(rng, key)
        changed = SCHEMES[self.schemes[link]].near(rng, key[link])
        return (*key[:link], changed, *key[link + 1 :])


TEXTS = {name: name for name in SCHEMES} | {
    "adv_params": "adv_params(count=12, pool=0.5)",
    "sign_mask": "sign_mask(bits=8)",
    "sign_flip": "sign_flip(bits=8)",
    "sign_mask-unit": "sign_mask(bits=8, per='unit')",
    "deep_lock-256": "deep_lock(key_bits=256)",
    "deep_lock-leaf": "deep_lock(restart='leaf')",
    "deep_lock-256-leaf": "deep_lock(key_bits=256, restart='leaf')",
    "deep_lock-word": "deep_lock(packing='word')",
}
"""Every scheme of the table, with settings for a small model if need be, and variants."""

SCHEME_OF = {name: parse(text).name for name, text in TEXTS.items()} | {"only": "deep_lock"}

CHAINS = [
    ("pixel_shuffle", "deep_lock"),
    ("adv_params", "stream_lock"),
    ("sign_mask", "sign_flip"),
    ("adv_params", "patch_shuffle", "deep_lock-leaf"),
    ("pixel_shuffle", "sign_mask", "adv_params", "stream_lock"),
]


# A lock with other settings and a chain run the code of the locks alone: of each kind one is quick.
TYPICAL = {
    *SCHEMES,
    "sign_mask-unit",
    "deep_lock-256-leaf",
    "deep_lock-word",
    "only",
    "+".join(CHAINS[-1]),
}


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test with each of these as `name`; what is not typical is slow."""
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks_of(n)) for n in names])


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in TYPICAL else [pytest.mark.slow]


def forward(params: Any, x: jax.Array, tap: ml.Tap = ml.untapped) -> jax.Array:
    """A hand-tapped net on 4 x 4 images with one leaf of each kind: [B, 4, 4, 1] to [B, 3]."""
    h = x.reshape(x.shape[0], -1) @ params["dense"]["kernel"]
    h = jax.nn.tanh(tap("dense", h + params["dense"]["bias"][None]))
    h = tap("head", h @ params["head"]["kernel"])
    return h + params["head"]["scale"].astype(h.dtype)[None]


def make_params(seed: int = 0, dtypes: Sequence[str] = DTYPES) -> Any:
    """Parameters of `forward`, and leaves of these dtypes and odd shapes that only ride along."""
    rngs = jax.random.split(jax.random.key(seed), 3)
    return {
        "dense": {
            "kernel": jax.random.normal(rngs[0], (16, 8)),
            "bias": jnp.linspace(-0.5, 0.5, 8),
        },
        "head": {
            "kernel": jax.random.normal(rngs[1], (8, 3)),
            "scale": jnp.array([0.0, -0.0, 1.0]),
        },
        "riders": {dtype: random_bits(rngs[2], (5, 3), dtype) for dtype in dtypes},
        "count": jnp.int32(7),
        "empty": jnp.zeros((0, 2)),
    }


def images(seed: int = 0, batch: int = 6) -> jax.Array:
    return jax.random.uniform(jax.random.key(100 + seed), (batch, 4, 4, 1))


def loss(params: Any) -> jax.Array:
    labels = jnp.arange(6) % 3
    return -jax.nn.log_softmax(forward(params, images()))[jnp.arange(6), labels].mean()


def random_bits(rng: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    """Any bits at all: NaN payloads, infinities, denormals and negative zeros included."""
    uint = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[jnp.dtype(dtype).itemsize]
    return jax.lax.bitcast_convert_type(jax.random.bits(rng, shape, uint), dtype)


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees are equal in structure, shape, dtype and every bit."""
    leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(
        x.shape == y.shape and x.dtype == y.dtype and bytes_of(x) == bytes_of(y)
        for x, y in zip(leaves_a, leaves_b)
    )


def bytes_of(leaf: Any) -> bytes:
    return jax.device_get(leaf).tobytes()


LOCKS = {name: parse(text).complete((4, 4, 1)).lock for name, text in TEXTS.items()}
LOCKS["only"] = ml.only(ml.deep_lock(), lambda path: "dense" in path)
CASES = {name: Case(lock, SCHEME_OF[name]) for name, lock in LOCKS.items()}
CASES |= {
    "+".join(names): Case(
        ml.chain(*(CASES[name].lock for name in names)),
        *(CASES[name].schemes[0] for name in names),
    )
    for names in CHAINS
}
