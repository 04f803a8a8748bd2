"""One table of all attacks on a locked model: what each is against, and what the attacker must have."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax.attacks.attack import Attack, run_shuffled
from modellock_jax.attacks.keys.chosen_image import (
    chosen_images,
    pixel_shuffle_chosen_image,
    pixel_shuffle_logit_oracle,
)
from modellock_jax.attacks.keys.ciphertext_only import deep_lock_ciphertext_only
from modellock_jax.attacks.keys.key_search import random_keys
from modellock_jax.attacks.keys.known_plaintext import deep_lock_known_plaintext
from modellock_jax.attacks.keys.oracle import sign_mask_oracle
from modellock_jax.attacks.keys.permutation_search import hill_climb
from modellock_jax.attacks.keys.relaxed_key import best_key, relaxed_key, relaxed_signs
from modellock_jax.attacks.keys.relaxed_permutation import relaxed_permutation
from modellock_jax.attacks.keys.sign_algebra import copies, corrected, keys_asked
from modellock_jax.attacks.weights import localise
from modellock_jax.attacks.weights.distil import distil
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.attacks.weights.selective import restore, selective
from modellock_jax.core.lock import Key, Lock, Params, user_forward
from modellock_jax.locks.deep_lock import deep_lock
from modellock_jax.locks.sign import sign_mask
from modellock_jax.models import Model
from modellock_jax.train import random_shift

STEPS, BATCH, RATES = 300, 32, (1e-3, 5e-3)  # of the attacks that train
TRAINING = 3  # passes of an image that is trained on: forward, and backward as two
QUERIES = 64  # images that an unlocked device is asked, where the count is the attacker's choice


class Case(NamedTuple):
    """A locked model and all that some attacker may have; `Entry.needs` says what each one uses.

    x `[N, H, W, C]`, y int32 `[N]`: the attacker's images and labels. `device(x)`: the user's logits;
    `camera(x)`: the user's scrambled images; `plain`: the plain weights, of which the known-plaintext
    attack looks at four. `settings` are the lock's own.
    """

    lock: Lock
    scheme: str
    settings: dict[str, Any]
    model: Model
    locked: Params
    x: jax.Array
    y: jax.Array
    device: Callable[[jax.Array], jax.Array]
    camera: Callable[[jax.Array], jax.Array]
    plain: Params
    rng: jax.Array


class Found(NamedTuple):
    """What an attack ends with: `forward(x) -> logits`; the key if it found one; labelled or
    unlabelled images used; images asked of a device; and `passes`: how many images the attacker's
    own copy of the model was given, a backward pass counting as two."""

    forward: Callable[[jax.Array], jax.Array]
    key: Key | None
    images: int
    queries: int
    passes: int


class Entry(NamedTuple):
    """`run(case)` gives what was found or None; `against` names schemes; `needs` is the threat model."""

    run: Callable[[Case], Found | None]
    against: tuple[str, ...]
    needs: str


def _with_key(
    case: Case, key: Key | None, images: int, passes: int, queries: int = 0
) -> Found | None:
    if key is None:
        return None
    user = user_forward(case.lock, case.model.forward)
    return Found(partial(user, key, case.locked), key, images, queries, passes)


def _trained(case: Case, attack: Callable[[Any], Attack], start: Params, y: jax.Array) -> Found:
    """The learning rate that does best on a fifth of the attacker's images, which it held out."""
    held = max(1, len(case.x) // 5)
    start_rng, order = jax.random.split(case.rng)

    @jax.jit
    def go(rate: jax.Array, start: Params, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        learn = attack(rate)
        settings: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "augment": random_shift}
        state, _ = run_shuffled(
            learn, learn.init(start_rng, start), x[held:], y[held:], order, **settings
        )
        classes = case.y[:held] if y.ndim == 1 else y[:held].argmax(-1)
        return state, (learn.forward(state, x[:held]).argmax(-1) == classes).mean()

    found = [go(jnp.float32(rate), start, case.x, y) for rate in RATES]
    best = max(range(len(RATES)), key=lambda i: float(found[i][1]))
    forward = partial(attack(RATES[best]).forward, found[best][0])
    batch = min(BATCH, len(case.x) - held)
    return Found(forward, None, len(case.x), 0, len(RATES) * (STEPS * batch * TRAINING + held))


def _fresh(case: Case) -> Params:
    return case.model.init(jax.random.fold_in(case.rng, 1), case.x[:1])


def _fine_tune(case: Case, start: Params) -> Found:
    shape = case.x.shape[1:]
    return _trained(case, lambda rate: fine_tune(case.model, rate, shape), start, case.y)


def _distil(case: Case) -> Found:
    shape, answers = case.x.shape[1:], case.device(case.x)
    found = _trained(case, lambda rate: distil(case.model, rate, shape), case.locked, answers)
    return found._replace(queries=len(case.x))


def _as_mask(case: Case) -> tuple[Lock, int]:
    """A sign lock as a mask with a gradient: `sign_flip` is its own twin."""
    bits = case.settings.get("bits", 256)
    return (case.lock if case.scheme == "sign_mask" else sign_mask(bits)), bits


def _random_keys(case: Case) -> Found | None:
    keys, first, survivors, images = 2000, 8, 256, min(64, len(case.x))
    counts: dict[str, Any] = {"keys": keys, "first": first, "survivors": survivors}
    search = partial(random_keys, case.lock, case.model.forward, **counts)
    found = jax.jit(search)(case.locked, case.x[:images], case.y[:images], case.rng)
    return _with_key(case, found.key, images, keys * first + survivors * images)


def _relaxed_key(case: Case) -> Found | None:
    signs = case.scheme != "pixel_shuffle"
    if signs:
        mask, bits = _as_mask(case)
        relaxation = relaxed_signs(mask, bits)
    else:
        relaxation = relaxed_permutation(case.settings["block"], case.settings["channels"])
    steps, restarts, batch = 400, 8, min(64, len(case.x))
    forward = case.model.forward
    attack = relaxed_key(relaxation, forward, steps, restarts=restarts)

    @jax.jit
    def go(locked: Params, x: jax.Array, y: jax.Array) -> tuple[Key, jax.Array]:
        start, order = jax.random.split(case.rng)
        state = attack.init(start, locked)
        settings: dict[str, Any] = {"steps": steps, "batch_size": batch, "augment": random_shift}
        key = best_key(relaxation, run_shuffled(attack, state, x, y, order, **settings)[0])
        if not signs:
            return key, jnp.int32(0)
        search = corrected(mask, forward, locked, key, x, y)
        return search.best, search.steps

    key, turns = go(case.locked, case.x, case.y)
    passes = steps * restarts * batch * TRAINING
    if signs:
        passes += int(turns) * keys_asked(bits) * copies(len(case.x)) * len(case.x)
    return _with_key(case, key, len(case.x), passes)


def _sign_oracle(case: Case) -> Found | None:
    lock, bits = _as_mask(case)
    # An attacker with few images asks for shifted ones too.
    x, shifts = case.x, jax.random.fold_in(case.rng, 1)
    x = jnp.concatenate([x, random_shift(shifts, jnp.resize(x, (QUERIES, *x.shape[1:])))])[:QUERIES]
    steps, restarts = 400, 4
    found = sign_mask_oracle(
        case.device, lock, bits, case.model.forward, case.locked, x, case.rng,
        steps=steps, restarts=restarts,
    )  # fmt: skip
    if found is None:
        return None
    attempts, asked = len(found.turns), keys_asked(bits)
    passes = restarts * len(x) * (attempts * steps * TRAINING + sum(found.turns) * asked)
    return _with_key(case, found.key, min(QUERIES, len(case.x)), passes, found.queries)


def _hill_climb(case: Case) -> Found | None:
    steps, swaps = 30, 63  # with the key itself 16 chunks
    attack = hill_climb(case.lock, case.model.forward, restarts=1, swaps=swaps, chunk=4)
    batch = case.x[:100], case.y[:100]

    @jax.jit
    def go(locked: Params, batch: Any) -> Key:
        state = attack.init(case.rng, locked)
        return lax.scan(lambda s, _: attack.step(s, batch), state, length=steps)[0].best

    images = len(batch[0])
    return _with_key(case, go(case.locked, batch), images, steps * (swaps + 1) * images)


def _chosen_image(case: Case) -> Found | None:
    height, width, channels = case.x.shape[1:]
    block = case.settings["block"]
    asked = chosen_images(block, (height, width, channels))
    key = pixel_shuffle_chosen_image(case.camera(asked), block)
    return _with_key(case, key, 0, 0, len(asked))


def _logit_oracle(case: Case) -> Found | None:
    height, width, channels = case.x.shape[1:]
    shape, block, beam = (height, width, channels), case.settings["block"], 64
    found = pixel_shuffle_logit_oracle(
        case.device, case.model.forward, case.locked, block, shape, case.rng, beam=beam
    )
    if found is None:
        return None
    # Every entry is tried at every place, alone and beside each partial key in the beam.
    entries = block * block * channels
    return _with_key(case, found.key, 0, entries * entries * (beam + 1), found.queries)


def _selective(case: Case) -> Found | None:
    turns, steps, count = 24, 5, case.settings.get("count", 48)
    counts = {"count": count, "turns": turns, "steps": steps}
    pursue = jax.jit(partial(selective, case.model.forward, **counts))
    held = len(case.x) // 4
    # In a turn one gradient ranks and `steps` refit, then the images held out judge.
    passes = turns * ((1 + steps) * TRAINING * (len(case.x) - held) + held)
    return _refitted(case, pursue(case.locked, case.x, case.y), passes)


def _restore(case: Case) -> Found | None:
    margin = localise.shared_margin(case.locked)
    suspects = localise.clamped(case.locked, margin.margin) > -localise.SAME
    steps, count = 60, case.settings.get("count", 48)
    refit = jax.jit(partial(restore, case.model.forward, count=count, steps=steps))
    key = refit(case.locked, suspects, case.x, case.y)
    return _refitted(case, key, steps * TRAINING * len(case.x))


def _refitted(case: Case, key: Key, passes: int) -> Found | None:
    # It opens the model in the owner's stead, but its values are estimates: not the owner's key.
    found = _with_key(case, key, len(case.x), passes)
    return None if found is None else found._replace(key=None)


def _as_deep_lock(case: Case, key: Key | None) -> Found | None:
    """The weights opened as `deep_lock` would with this key, whatever lock they are under."""
    if key is None:
        return None
    params = jax.jit(deep_lock(_key_bits(case)).decrypt)(key, case.locked)
    return Found(partial(case.model.forward, params), key, 0, 0, 0)


def _key_bits(case: Case) -> Any:
    return case.settings.get("key_bits", 128)


def _ciphertext_only(case: Case) -> Found | None:
    return _as_deep_lock(case, deep_lock_ciphertext_only(case.locked, _key_bits(case)))


def _known_plaintext(case: Case) -> Found | None:
    known, seen = (jax.tree.leaves(tree)[0] for tree in (case.plain, case.locked))
    return _as_deep_lock(case, deep_lock_known_plaintext(seen, known, 0, _key_bits(case)))


SIGNS, SHUFFLE, CIPHERS = (
    ("sign_mask", "sign_flip"),
    ("pixel_shuffle",),
    ("deep_lock", "stream_lock"),
)
EVERY = (*SHUFFLE, *SIGNS, "adv_params", *CIPHERS)
LABELS, DEVICE = "weights, labelled images", "weights, images, an unlocked device's logits"

ATTACKS: dict[str, Entry] = {
    "scratch": Entry(lambda c: _fine_tune(c, _fresh(c)), EVERY, "labelled images, no weights"),
    "fine_tune": Entry(lambda c: _fine_tune(c, c.locked), EVERY, LABELS),
    "distil": Entry(_distil, EVERY, DEVICE),
    "random_keys": Entry(_random_keys, (*SIGNS, *SHUFFLE), LABELS),
    "relaxed_key": Entry(_relaxed_key, (*SIGNS, *SHUFFLE), LABELS),
    "sign_mask_oracle": Entry(_sign_oracle, SIGNS, DEVICE),
    "hill_climb": Entry(_hill_climb, SHUFFLE, LABELS),
    "chosen_image": Entry(_chosen_image, SHUFFLE, "one image of choice, scrambled by the user"),
    "logit_oracle": Entry(_logit_oracle, SHUFFLE, "weights, an unlocked device's logits"),
    "selective": Entry(_selective, ("adv_params",), LABELS),
    "restore": Entry(_restore, ("adv_params",), LABELS),
    "deep_lock_ciphertext_only": Entry(_ciphertext_only, CIPHERS, "weights"),
    "deep_lock_known_plaintext": Entry(_known_plaintext, CIPHERS, "weights, eight plain weights"),
}
"""By name: every attack on a single locked model. `scratch` is the control, not an attack."""
