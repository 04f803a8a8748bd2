"""The table of schemes: a new scheme is one file and one line here."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from modellock_jax.core.lock import Key, Lock, Params
from modellock_jax.locks import (
    adv_params,
    deep_lock,
    patch_shuffle,
    pixel_shuffle,
    sign,
    stream_lock,
)


class Scheme(NamedTuple):
    """What a study needs to know of a scheme beside its lock.

    `factory(**settings) -> Lock`; `near(rng, key) -> key`, the nearest wrong key (one bit or swap
    off); `bits(params, sites, **settings) -> float`, the key space in bits on one model, whose
    `sites` map a name to the shape of its pre-activation `[B, ..., C]`; `guess(lock, rng, locked) ->
    key`, a key that an attacker who knows the scheme would try.
    """

    factory: Callable[..., Lock]
    near: Callable[[jax.Array, Key], Key]
    bits: Callable[..., float]
    guess: Callable[[Lock, jax.Array, Params], Key] = lambda lock, rng, locked: lock.init(
        rng, locked
    )


def flip_one_bit(rng: jax.Array, key: Key) -> Key:
    """The nearest wrong key: one bit of the first field, uint32 words, flipped."""
    words = key[0]
    word_rng, bit_rng = jax.random.split(rng)
    word = jax.random.randint(word_rng, (), 0, words.shape[0])
    bit = jax.random.randint(bit_rng, (), 0, 32).astype(words.dtype)
    flipped = words.at[word].set(words[word] ^ (jax.numpy.uint32(1) << bit))
    return key._replace(**{key._fields[0]: flipped})


_pixel = pixel_shuffle
SCHEMES: dict[str, Scheme] = {
    "pixel_shuffle": Scheme(_pixel.pixel_shuffle, _pixel.swap_two, _pixel.permutation_bits),
    "negative_positive": Scheme(_pixel.negative_positive, _pixel.swap_two, _pixel.negative_bits),
    "ffx": Scheme(_pixel.ffx, _pixel.swap_two, _pixel.ffx_bits),
    "patch_shuffle": Scheme(patch_shuffle.patch_shuffle, _pixel.swap_two, patch_shuffle.patch_bits),
    "deep_lock": Scheme(deep_lock.deep_lock, flip_one_bit, deep_lock.key_bits),
    "adv_params": Scheme(
        adv_params.adv_params,
        adv_params.flip_one_true_bit,
        adv_params.position_bits,
        adv_params.guess,
    ),
    "sign_mask": Scheme(sign.sign_mask, sign.negate_one, sign.mask_bits),
    "sign_flip": Scheme(sign.sign_flip, sign.negate_one, sign.flip_bits),
    "stream_lock": Scheme(stream_lock.stream_lock, flip_one_bit, stream_lock.key_bits),
}
