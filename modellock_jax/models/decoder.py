"""A small decoder-only transformer in Flax Linen, for text."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from modellock_jax.models._block import Block
from modellock_jax.models.model import Model, linen

__all__ = ["decoder"]


def decoder(
    vocabulary: int, width: int = 64, depth: int = 2, heads: int = 4, length: int = 256
) -> Model:
    """Make a decoder-only transformer: tokens int `[B, T]` to logits `[B, T, vocabulary]`.

    Norms come before attention and before the MLP, positions are learned, and no token sees a later one.

    Args:
        vocabulary: The number of tokens there are.
        width: That of the residual stream, a multiple of `heads`.
        depth: The number of blocks.
        heads: Of attention.
        length: Tokens in the longest text.

    Returns:
        A model of tokens int `[B, T]`, T at most `length`.

    Raises:
        ValueError: For a width that is no multiple of the heads; in a forward, for a longer text.

    Source: Vaswani et al. (2017); the decoder alone and its order of norms as in Radford et al. (2019).

    >>> import jax, jax.numpy as jnp
    >>> model, x = decoder(11, width=8, depth=1, heads=2), jnp.arange(6).reshape(2, 3)
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (2, 3, 11)
    """
    if width % heads:
        raise ValueError(f"decoder: width must be a multiple of heads, not {width} of {heads}")
    return linen(_Decoder(vocabulary, width, depth, heads, length))


class _Decoder(nn.Module):
    vocabulary: int
    width: int
    depth: int
    heads: int
    length: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        if tokens.shape[1] > self.length:
            raise ValueError(
                f"decoder: takes texts of at most {self.length} tokens, not {tokens.shape[1]}; "
                "make it with a larger length"
            )
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        x = x + nn.Embed(self.length, self.width)(places)[None]
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.depth):
            x = Block(self.heads)(x, mask)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))
