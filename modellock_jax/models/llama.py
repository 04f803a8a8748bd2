"""The decoder of the Llama family in Flax Linen, for text."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from modellock_jax.models.model import Model, linen

__all__ = ["LlamaConfig", "llama"]


class LlamaConfig(NamedTuple):
    """The sizes of a decoder of the Llama family, under the names that its checkpoints use.

    `vocab_size` is the number of tokens, `num_hidden_layers` that of blocks;
    `hidden_size` is that of the residual stream, `intermediate_size` that of the feed-forward;
    `num_attention_heads` heads of queries share `num_key_value_heads` heads of keys and values;
    `rope_theta` is the base of the rotary positions, `rms_norm_eps` what norms add to a mean square.
    """

    vocab_size: int
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-5


def llama(config: LlamaConfig) -> Model:
    """Make a decoder of the Llama family: tokens int `[B, T]` to logits `[B, T, vocab_size]`.

    Norms by root mean square, rotary positions, heads of queries in groups that share keys and
    values, a feed-forward with a SiLU gate, no biases, and one embedding for tokens and logits.

    | leaf below `params` | shape |
    | --- | --- |
    | `embed_tokens/embedding` | `[vocab_size, hidden_size]` |
    | `layers_I/self_attn/q_proj/kernel` | `[hidden_size, heads * size]` |
    | `layers_I/self_attn/k_proj/kernel`, `v_proj` | `[hidden_size, key_value_heads * size]` |
    | `layers_I/self_attn/o_proj/kernel` | `[heads * size, hidden_size]` |
    | `layers_I/mlp/gate_proj/kernel`, `up_proj` | `[hidden_size, intermediate_size]` |
    | `layers_I/mlp/down_proj/kernel` | `[intermediate_size, hidden_size]` |
    | `layers_I/input_layernorm/scale`, `post_attention_layernorm`, `norm/scale` | `[hidden_size]` |

    A head has `size` = hidden_size / heads entries; that of number h reads the keys and values of number
    h // (heads / key_value_heads), so row (h, i) of `o_proj` reads column (h // ..., i) of `v_proj`.
    Rotary positions turn neighbours, entries 2i and 2i + 1 of a head, the order of GGUF files. Layers
    are leaves of their own and no stack: each has its sites, `only` can choose it, and `sign_pairs`
    follows the residual stream from one to the next, which it would lose in a `scan`.

    Args:
        config: The sizes.

    Returns:
        A model of tokens int `[B, T]`; its sites are the outputs of the seven kernels of a layer.

    Raises:
        ValueError: For sizes of 0 or less, or that do not divide as they must.

    Source: Touvron et al. (2023); rotary positions by Su et al. (2021), gates by Shazeer (2020), groups
    of heads by Ainslie et al. (2023).

    >>> import jax, jax.numpy as jnp
    >>> model, x = llama(LlamaConfig(vocab_size=11)), jnp.arange(6).reshape(2, 3)
    >>> model.forward(model.init(jax.random.key(0), x), x).shape
    (2, 3, 11)
    """
    for name, size in config._asdict().items():
        if not size > 0:
            raise ValueError(f"llama: {name} must be above 0, not {size}")
    hidden, heads, groups = (
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    if hidden % heads or hidden // heads % 2:
        raise ValueError(
            "llama: hidden_size must be an even multiple of num_attention_heads, not "
            f"{hidden} of {heads}"
        )
    if heads % groups:
        raise ValueError(
            "llama: num_attention_heads must be a multiple of num_key_value_heads, not "
            f"{heads} of {groups}"
        )
    return linen(_Llama(config))


def _rotated(x: jax.Array, theta: float) -> jax.Array:
    """Turn neighbours `[B, T, heads, size]` by the angles of their positions."""
    length, size = x.shape[1], x.shape[3]
    speeds = theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * speeds[None]
    cos, sin = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


class _Attention(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        size = c.hidden_size // c.num_attention_heads

        def heads(number: int, name: str) -> jax.Array:
            h = nn.Dense(number * size, use_bias=False, name=name)(x)
            return h.reshape(*x.shape[:2], number, size)

        q = _rotated(heads(c.num_attention_heads, "q_proj"), c.rope_theta)
        k = _rotated(heads(c.num_key_value_heads, "k_proj"), c.rope_theta)
        v = heads(c.num_key_value_heads, "v_proj")
        h = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return nn.Dense(c.hidden_size, use_bias=False, name="o_proj")(h.reshape(x.shape))


class _MLP(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate, up = (
            nn.Dense(self.config.intermediate_size, use_bias=False, name=name)(x)
            for name in ("gate_proj", "up_proj")
        )
        return nn.Dense(x.shape[-1], use_bias=False, name="down_proj")(nn.silu(gate) * up)


class _Layer(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        eps = self.config.rms_norm_eps
        h = nn.RMSNorm(eps, name="input_layernorm")(x)
        x = x + _Attention(self.config, name="self_attn")(h)
        h = nn.RMSNorm(eps, name="post_attention_layernorm")(x)
        return x + _MLP(self.config, name="mlp")(h)


class _Llama(nn.Module):
    config: LlamaConfig

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        embed = nn.Embed(c.vocab_size, c.hidden_size, name="embed_tokens")
        x = embed(tokens)
        for i in range(c.num_hidden_layers):
            x = _Layer(c, name=f"layers_{i}")(x)
        return embed.attend(nn.RMSNorm(c.rms_norm_eps, name="norm")(x))
