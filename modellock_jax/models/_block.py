"""The block of our small transformers."""

import flax.linen as nn
import jax

__all__ = ["Block"]


class Block(nn.Module):
    """Attention and an MLP on `[B, T, width]`, each after a norm and beside a residual stream."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Return the residual stream after this block."""
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(h, mask=mask)
        h = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(h)
