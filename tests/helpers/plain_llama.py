"""The decoder of the Llama family in plain NumPy, a head at a time, rotations as complex numbers."""

import numpy as np


def plain_llama(config, params, tokens):
    """Give the logits `[T, vocab_size]` of one text, computed in float64."""
    weights = {}

    def enter(path, node):
        for name, value in node.items():
            if isinstance(value, dict):
                enter(f"{path}{name}.", value)
            else:
                weights[f"{path}{name}"] = np.asarray(value, np.float64)

    enter("", params["params"])
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shared = heads // config.num_key_value_heads
    at = np.arange(len(tokens))
    turns = np.exp(1j * np.outer(at, config.rope_theta ** (-2.0 * np.arange(size // 2) / size)))

    def norm(x, name):
        scale = np.sqrt(np.mean(x**2, -1, keepdims=True) + config.rms_norm_eps)
        return x / scale * weights[f"{name}.scale"]

    def head(x, number):
        return x[:, number * size : (number + 1) * size]

    def turned(x):
        z = (x[:, 0::2] + 1j * x[:, 1::2]) * turns
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    x = weights["embed_tokens.embedding"][np.asarray(tokens)]
    for i in range(config.num_hidden_layers):
        layer = f"layers_{i}."
        kernels = {
            name: weights[f"{layer}{part}.{name}_proj.kernel"]
            for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
            for name in names
        }
        h = norm(x, f"{layer}input_layernorm")
        q, k, v = (h @ kernels[name] for name in "qkv")
        mixed = []
        for number in range(heads):
            group = number // shared
            scores = turned(head(q, number)) @ turned(head(k, group)).T / np.sqrt(size)
            scores[at[:, None] < at[None]] = -np.inf
            p = np.exp(scores - scores.max(1, keepdims=True))
            mixed.append(p / p.sum(1, keepdims=True) @ head(v, group))
        x = x + np.concatenate(mixed, 1) @ kernels["o"]
        h = norm(x, f"{layer}post_attention_layernorm")
        gate = h @ kernels["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ kernels["up"])) @ kernels["down"]
    return norm(x, "norm") @ weights["embed_tokens.embedding"].T
