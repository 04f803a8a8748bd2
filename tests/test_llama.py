"""The Llama family's decoder against the same in plain NumPy, and what locks and attacks find in it."""

import jax
import numpy as np
import pytest
from helpers.plain_llama import plain_llama

import modellock_jax as ml
from modellock_jax import models
from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.core.acts import acts_on

CONFIG = models.LlamaConfig(
    vocab_size=31,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    rope_theta=500.0,
    rms_norm_eps=1e-3,
)
MODEL = models.llama(CONFIG)
TOKENS = np.random.default_rng(1).integers(0, 31, (2, 9), np.int32)


@pytest.fixture(scope="module")
def params():
    """Random weights, gains of norms too, large enough that no part of the model is idle."""
    start = MODEL.init(jax.random.key(0), TOKENS)
    leaves, tree = jax.tree.flatten(start)
    rngs = jax.random.split(jax.random.key(2), len(leaves))
    drawn = [leaf + 0.3 * jax.random.normal(r, leaf.shape) for r, leaf in zip(rngs, leaves)]
    return jax.tree.unflatten(tree, drawn)


forward = jax.jit(MODEL.forward)


def test_logits_are_those_of_plain_numpy(params):
    for tokens, logits in zip(TOKENS, forward(params, TOKENS)):
        plain = plain_llama(CONFIG, params, tokens)
        assert plain.std() > 0.5
        np.testing.assert_allclose(logits, plain, atol=2e-4, rtol=2e-4)


def negated(params, layer, columns, rows, units, of_rows):
    """Negate the columns of one kernel of a layer, and the rows of another that read them."""
    changed = jax.tree.map(np.array, params)
    for (part, name), index in ((columns, np.s_[:, units]), (rows, np.s_[of_rows])):
        changed["params"][f"layers_{layer}"][part][name]["kernel"][index] *= -1
    return changed


def test_which_rows_read_which_columns(params):
    """As the docstring says: negated together, nothing changes, and one without the other does."""
    want = forward(params, TOKENS)
    heads, groups, size = 6, 2, 4
    unit = 1 * size + 3  # the last entry of the second group
    rows = [h * size + 3 for h in range(heads) if h // (heads // groups) == 1]
    cases = [
        (("self_attn", "v_proj"), ("self_attn", "o_proj"), [unit], rows),
        (("mlp", "up_proj"), ("mlp", "down_proj"), [7, 20], [7, 20]),
    ]
    for columns, readers, units, of_rows in cases:
        same = forward(negated(params, 1, columns, readers, units, of_rows), TOKENS)
        np.testing.assert_array_equal(same, want)
        assert not np.allclose(
            forward(negated(params, 1, columns, readers, units, []), TOKENS), want
        )


def test_the_trace_gives_residual_axes_and_gated_layers(params):
    found = sign_pairs(MODEL.forward, params, TOKENS[:1])
    assert len(found) == 2 * 7  # and no head, which is the embedding
    layers = [found[7 * i : 7 * i + 7] for i in range(2)]
    for number, (q, k, v, o, gate, up, down) in enumerate(layers):
        assert all(one.reader is None for one in (q, k, v))
        reads = params["params"][f"layers_{number}"]["mlp"]["down_proj"]["kernel"]
        for one in (gate, up):
            np.testing.assert_allclose(one.reader, reads / np.linalg.norm(reads), rtol=1e-5)
        assert o.reader.shape[0] == down.reader.shape[0] == CONFIG.hidden_size
    # Who reads the stream next: an MLP of 2 * 40, attention of 24 + 8 + 8, the logits of 31. The first
    # to write is followed to three, since it adds to an embedding, which is no kernel.
    outs = [[layer[i].reader.shape[1] for i in (3, 6)] for layer in layers]
    assert outs == [[80 + 40 + 80, 40 + 80], [80 + 31, 31]]


def test_sign_locks_act_on_the_kernels_alone(params):
    lock = ml.sign_flip(16)
    assert set(acts_on(lock, params)) == {
        f"params/layers_{i}/{part}/{name}/kernel"
        for i in range(2)
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down")))
        for name in (f"{name}_proj" for name in names)
    }
    key = lock.init(jax.random.key(3), params)
    locked, _ = lock.encrypt(key, params)
    owner = jax.jit(ml.owner_forward(ml.sign_mask(16), MODEL.forward))
    np.testing.assert_array_equal(forward(locked, TOKENS), owner(key, params, TOKENS))
    assert not np.allclose(forward(locked, TOKENS), forward(params, TOKENS), atol=0.1)


def test_no_token_sees_a_later_one_and_places_matter(params):
    one, other = (forward(params, t) for t in (TOKENS, (TOKENS + (np.arange(9) == 5)) % 31))
    np.testing.assert_array_equal(one[:, :5], other[:, :5])
    assert not np.allclose(one[:, 5:], other[:, 5:])
    swapped = forward(params, TOKENS[:, [1, 0, *range(2, 9)]])
    assert not np.allclose(one[:, -1], swapped[:, -1], atol=1e-3)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 20}, "an even multiple of num_attention_heads, not 20 of 6"),
        ({"hidden_size": 18}, "an even multiple of num_attention_heads, not 18 of 6"),
        ({"num_key_value_heads": 4}, "a multiple of num_key_value_heads, not 6 of 4"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be above 0, not 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be above 0, not 0"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        models.llama(CONFIG._replace(**sizes))
