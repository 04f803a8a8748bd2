"""AdvParams: a few weights changed where the loss is most sensitive; the key keeps the true bits.

Source: Xue, Wu, Wang, Zhang & Liu (2021), arXiv 2105.13697.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from modellock_jax.core.bits import check_leaves, non_differentiable, to_uint
from modellock_jax.core.keys import check_key, redacted
from modellock_jax.core.lock import Key, Lock, Loss, Params
from modellock_jax.core.source import Rng, random_words
from modellock_jax.locks._adv_search import Changes, Settings, search
from modellock_jax.locks._entries import check_entries, overwrite
from modellock_jax.locks._scheme import Break, Scheme

__all__ = ["SCHEME", "AdvParamsKey", "adv_params", "target_leaves"]


class AdvParamsKey(NamedTuple):
    """Where the changed weights are and what their bits were; `[count]` each but the seed.

    `seed`: uint32 `[8]`, draws the pool; zero once encrypt has used it. `leaf`: int32, a leaf's
    number in tree order, -1 where unused. `position`: int32, the place in that leaf, in C order.
    `bits`: uint32, the true bits, zero-extended.
    """

    seed: jax.Array
    leaf: jax.Array
    position: jax.Array
    bits: jax.Array

    def __repr__(self) -> str:
        return redacted(self)


def adv_params(
    count: int = 48,
    step: float = 1.0,
    margin: float = 0.01,
    budget: int = 1,
    pool: float = 0.5,
    stop: float = math.inf,
) -> Lock:
    """Change at most `count` weights so that the loss grows; decrypt restores their true bits.

    Layers are the float leaves of at most 32 bits with two axes or more. A step adds `step * range *
    sign(gradient)` to a weight, kept inside `[min + margin * range, max - margin * range]` of its layer.
    Each iteration opens a random half of the layers and steps the weight of the secret pool for which
    gradient times change is largest. A layer's own minimum and maximum never change. The pool is
    drawn by the key: without it every key would choose the same weights.

    Args:
        count: Iterations of the search, and so weights at most, at least 1.
        step: In units of the range of a layer, above 0.
        margin: From the ends of that range, in the same units, in [0, 0.5).
        budget: How often a weight changes at most, at least 1.
        pool: The share of all weights that lie in the pool, in (0, 1].
        stop: The search ends once the loss exceeds it.

    Returns:
        A lock whose `encrypt(key, params, loss)` needs `loss(params) -> scalar`, differentiable, and
        finishes the key.

    Raises:
        ValueError: For settings out of range; in `encrypt`, without `loss` or for a loss that is
            not finite; for a tree without layers, or a key that points outside of it.
        TypeError: When differentiated through `decrypt`.

    **Guarantees.** decrypt inverts encrypt on bits; at most `count` weights differ; every layer
    keeps its minimum and maximum. Both keep shardings; in decrypt no device talks to another, in encrypt
    they exchange what the loss needs and a maximum over each layer and where it is. An iteration of the
    search is one gradient and one pass over the layers; beside both, a device holds a byte for each
    of its weights. All other weights lie open.
    **Broken**: at full `step` the clamp shows which weights were changed, and 1 % of the data refits
    them (attacks `localise`, `restore`);
    the paper's own adaptive attacker (the same search, descending) recovers 56-64 % accuracy
    (Malhotra 2023).

    Source: Xue et al. (2021), who take random layers and in each the weight with the largest
    gradient. Whether they step by its sign or value, and how far, is not published, so `step`,
    `margin`, `budget` and `pool` are ours; so is ranking by the expected gain, since a weight near
    its bound has a gradient but nowhere to go.

    >>> import jax, modellock_jax as ml
    >>> params = {"kernel": jax.random.normal(jax.random.key(1), (8, 8))}
    >>> lock = ml.adv_params(count=3)
    >>> key = lock.init(jax.random.key(0), params)
    >>> locked, key = lock.encrypt(key, params, lambda p: (p["kernel"] ** 2).sum())
    >>> int((locked["kernel"] != params["kernel"]).sum()) <= 3
    True
    >>> bool((lock.decrypt(key, locked)["kernel"] == params["kernel"]).all())
    True
    """
    if count < 1 or budget < 1 or not 0 < pool <= 1 or not 0 <= margin < 0.5 or not step > 0:
        raise ValueError(
            "adv_params: count and budget must be at least 1, pool in (0, 1], margin in [0, 0.5) "
            f"and step above 0, not {count=}, {budget=}, {pool=}, {margin=}, {step=}"
        )
    settings = Settings(count, step, margin, budget, pool, stop)
    shapes = (8,), (count,), (count,), (count,)
    name = f"adv_params({count=}, {step=}, {margin=}, {budget=}, {pool=}, {stop=})"

    def init(rng: Rng, params: Params) -> AdvParamsKey:
        check_leaves("adv_params", params)
        target_leaves(params)
        none = jnp.full(count, -1, jnp.int32)
        return AdvParamsKey(random_words(rng, 8, name), none, none, jnp.zeros(count, jnp.uint32))

    def encrypt(key: Key, params: Params, /, loss: Loss | None = None) -> tuple[Params, Key]:
        check_leaves("adv_params", params)
        check_key("adv_params", key, AdvParamsKey, *shapes)
        if loss is None:
            raise ValueError(
                "adv_params: encrypt needs the owner's loss, as in "
                "encrypt(key, params, lambda p: cross_entropy(forward(p, x), y))"
            )
        found, changes, is_finite = _search(settings, key.seed, params, loss)
        if not isinstance(is_finite, jax.core.Tracer) and not bool(is_finite):
            raise ValueError(
                f"adv_params: the loss of the parameters is {loss(params)}; it must be finite. "
                "In a chain, adv_params comes before locks on bits"
            )
        if not isinstance(changes.layer, jax.core.Tracer) and bool((changes.layer < 0).all()):
            raise ValueError(
                "adv_params: no weight of the key's pool can be moved so that the loss grows, so that "
                "nothing would be locked; draw another key, or raise pool or stop"
            )
        numbers = jnp.asarray(np.array(target_leaves(params), np.int32))
        leaf = jnp.where(changes.layer < 0, -1, numbers[changes.layer])
        new = AdvParamsKey(jnp.zeros_like(key.seed), leaf, changes.position, changes.bits)
        return found, new

    def decrypt(key: Key, locked: Params) -> Params:
        check_leaves("adv_params", locked)
        check_key("adv_params", key, AdvParamsKey, *shapes)
        check_entries("adv_params", locked, target_leaves(locked), key.leaf, key.position)
        return _restore(key, locked)

    return Lock(init, encrypt, decrypt)


@non_differentiable("adv_params")
def _guarded(params: Params) -> Params:
    return params


def _search(
    settings: Settings, seed: jax.Array, params: Params, loss: Loss
) -> tuple[Params, Changes, jax.Array]:
    leaves, tree = jax.tree.flatten(_guarded(params))
    targets = target_leaves(params)

    def with_layers(values: list[jax.Array]) -> Params:
        new = list(leaves)
        for i, value in zip(targets, values):
            new[i] = value
        return jax.tree.unflatten(tree, new)

    found, changes, is_finite = search(
        settings, seed, [leaves[i] for i in targets], lambda values: loss(with_layers(values))
    )
    return with_layers(found), changes, is_finite


@non_differentiable("adv_params")
def _restore(key: AdvParamsKey, locked: Params) -> Params:
    return overwrite(locked, target_leaves(locked), key.leaf, key.position, key.bits)


def target_leaves(params: Params) -> list[int]:
    """Return the leaves that the lock may change, by number.

    Args:
        params: A tree of arrays, or of shapes and dtypes.

    Returns:
        Indices into `jax.tree.leaves(params)`, of floats with two axes or more.

    Raises:
        ValueError: If there is none, or one has more weights than an int32 can number.
    """
    leaves = jax.tree.leaves(params)
    targets = [
        i
        for i, leaf in enumerate(leaves)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
        and leaf.dtype.itemsize <= 4
        and leaf.ndim >= 2
        and leaf.size
    ]
    if not targets:
        raise ValueError(
            "adv_params: no leaf is a layer, that is a float of at most 32 bits with two axes or more"
        )
    if (most := max(leaves[i].size for i in targets)) >= 2**31:
        raise ValueError(
            f"adv_params: a layer has {most} weights, and at most 2**31 - 1 can be numbered; leave it "
            "out with only(lock, where)"
        )
    return targets


def _flip_one_true_bit(rng: jax.Array, key: AdvParamsKey) -> AdvParamsKey:
    """Return the nearest wrong key: the highest exponent bit of one restored float32 weight flipped."""
    used = jnp.where(key.leaf >= 0, 1.0, 0.0)
    j = jax.random.choice(rng, key.leaf.shape[0], p=used / used.sum())
    return key._replace(bits=key.bits.at[j].set(key.bits[j] ^ jnp.uint32(1 << 30)))


def _guess(lock: Lock, rng: jax.Array, locked: Params) -> AdvParamsKey:
    """Return a key an attacker would try: random places, each set to another weight of its layer."""
    key = lock.init(rng, locked)
    leaves, targets = jax.tree.leaves(locked), target_leaves(locked)
    count = key.leaf.shape[0]
    pick, place, other = jax.random.split(rng, 3)
    leaf = jax.random.choice(pick, jnp.array(targets, jnp.int32), (count,))
    position, bits = key.position, key.bits
    for i in targets:
        here = jax.random.randint(place, (count,), 0, leaves[i].size)
        there = jax.random.randint(other, (count,), 0, leaves[i].size)
        value = to_uint(leaves[i]).ravel()[there].astype(jnp.uint32)
        position, bits = jnp.where(leaf == i, here, position), jnp.where(leaf == i, value, bits)
    return AdvParamsKey(jnp.zeros_like(key.seed), leaf, position, bits)


def _position_bits(params: Params, sites: Any, count: int = 48, **_: Any) -> float:
    """Key space in bits of the positions alone: log2 of the ways to choose `count` weights."""
    leaves = jax.tree.leaves(params)
    total = sum(leaves[i].size for i in target_leaves(params))
    ways = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    return ways / math.log(2)


SCHEME = Scheme(
    name="adv_params",
    factory=adv_params,
    paper="Xue et al. (2021), arXiv 2105.13697",
    acts="weights: a few moved where the loss grows most; the key keeps their bits",
    trained_under=False,
    protects="A few dozen weights are moved so that the model fails; the key restores them.",
    lies_open="All other weights lie open: a thief starts nearly at the goal.",
    broken=(
        Break(
            attack="restore",
            how="its clamp marks the changed weights, which little data refits",
        ),
        Break(attack="selective", how="little data finds the changed weights and undoes them"),
        Break(
            attack="weights_from_base",
            how="a public model that it was fine-tuned from shows the changed weights, and what they "
            "were nearly",
        ),
        Break(
            how="an adaptive attacker, the same search descending, recovers much",
            source="Malhotra, 2023, a survey",
        ),
    ),
    wrong_key="few weights are changed, and a wrong key changes few others",
    near=_flip_one_true_bit,
    bits=_position_bits,
    bits_of="positions",
    guess=_guess,
    study="adv_params",
    files="needs the owner's loss on data, and its key holds the weights it changed; call "
    "modellock_jax.adv_params in Python, or use stream_lock",
)
