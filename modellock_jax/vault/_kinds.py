"""What a file is, told by its first bytes and its name."""

import os

from modellock_jax._printing import printable
from modellock_jax.vault import _tensors, _texts
from modellock_jax.vault._sources import Reader
from modellock_jax.vault.errors import Unreadable

START = 512  # bytes that tell it

_MARKS = (
    (0, b"PK\x03\x04", "a ZIP archive, as NumPy's .npz and PyTorch's .pt are"),
    (0, b"PK\x05\x06", "a ZIP archive, as NumPy's .npz and PyTorch's .pt are"),
    (0, b"\x93NUMPY", "an array of NumPy (.npy)"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras's .h5 is"),
    (0, b"ARROW1", "an Arrow file"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (4, b"TFL3", "a TensorFlow Lite file"),
    (257, b"ustar", "a tar archive"),
)
_ENDINGS = {
    ".onnx": "an ONNX file",
    ".msgpack": "a msgpack file, as Flax writes",
    ".pt": "a pickle of PyTorch",
    ".pth": "a pickle of PyTorch",
    ".bin": "a pickle of PyTorch",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".json": "a JSON file",
    ".pb": "a protobuf",
}
_SAFETENSORS = ".safetensors"


def is_safetensors(start: bytes, name: str | os.PathLike[str] = "") -> bool:
    r"""Whether a file that begins so, and has this name, is meant to be a safetensors file.

    >>> is_safetensors(b"GGUF\3\0\0\0" + bytes(8))
    False
    """
    length = int.from_bytes(start[:8], "little")
    begun = len(start) >= 9 and start[8:9] in b"{ \n" and length <= _tensors.LONGEST
    return begun or (os.fspath(name).endswith(_SAFETENSORS) and not _marked(start))


def what(start: bytes, name: str | os.PathLike[str] = "") -> str:
    r"""Return a file of another kind in words, "" if its kind is not known.

    >>> what(b"GGUF\3\0\0\0")
    'a GGUF file'
    """
    ending = os.path.splitext(os.fspath(name))[1].lower()
    if found := _marked(start):
        return found
    if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5" and start[1:2]:
        return "a pickle, as PyTorch's .pt once was"
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    if start[:2] in (b"\x08\x07", b"\x08\x08", b"\x08\x09", b"\x08\x0a"):
        return "an ONNX file"
    if start[:1] and (0x80 < start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        return "a msgpack file, as Flax writes"
    return ""


def _marked(start: bytes) -> str:
    return next((word for at, mark, word in _MARKS if start[at:].startswith(mark)), "")


def need_safetensors(start: bytes, name: str) -> None:
    """Raise `Unreadable`, which calls the file by its kind, for one that is no safetensors file."""
    if is_safetensors(start, name):
        return
    kind = what(start, name) or "not a safetensors file"
    kind = kind if kind.startswith("not") else f"{kind}, not a safetensors file"
    raise Unreadable(
        f"{printable(name)} is {kind}: save its tensors as safetensors, or seal it as it is"
    )


_SEALED, _LOCKED = b'"modellock":"modellock-jax sealed', b'"modellock":"modellock-jax locked'
_LOOKED_AT = 2**20  # bytes of a head


def instead(reader: Reader, wanted: str) -> str:
    """Return what a file is that is not `wanted`, which is "sealed" or "locked", and what to do; or "".

    Empty for a file that is as wanted, perhaps in another version, and for one of no known kind.
    """
    start, name = reader.read(_LOOKED_AT), printable(reader.name)
    verb = {"sealed": "open", "locked": "unlock"}[wanted]
    for mark, other, command in ((_SEALED, "sealed", "open"), (_LOCKED, "locked", "unlock")):
        if is_safetensors(start) and mark in start:
            instead = f"{name} is {other}, not {wanted}; use `{command}` instead of `{verb}`"
            return "" if other == wanted else instead
    if fault := _texts.encoding_fault(start):
        return f"{name} {fault}"
    if kind := _texts.kind(start):
        return f"{name} is {_texts.KINDS[kind]}, and no {wanted} file; see `inspect`"
    if is_safetensors(start):
        return (
            f"{name} is a plain safetensors file: it is not {wanted}, so there is nothing to {verb}"
        )
    kind = what(start, reader.name)
    return f"{name} is {kind}, and no {wanted} file" if kind else ""
