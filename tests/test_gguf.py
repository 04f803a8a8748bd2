"""GGUF files: sealed as they are, and opened tensor by tensor; whatever a stranger's file says."""

import struct

import numpy as np
import pytest
from helpers.commands import within
from helpers.sealed import ALICE, public, same

from modellock_jax.vault import _gguf
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.keys import secret
from modellock_jax.vault.sealed import envelope

gguf = pytest.importorskip("gguf")
KINDS = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file of several types, and its arrays as a reader of raw bytes gives them."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    rng = np.random.default_rng(0)
    arrays = {
        "token_embd.weight": rng.normal(size=(5, 64)).astype(np.float32),
        "blk.0.ffn.weight": rng.normal(size=(3, 96)).astype(np.float16),
        "blk.0.norm": np.ones(7, np.float32),
        "counts": np.arange(5, dtype=np.int32),
    }
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "small\x1b model")
    writer.add_array("tokens", ["a", "é", ""])
    writer.add_array("scores", [1.5, 2.5])
    writer.add_bool("flag", True)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    for kind in (KINDS.Q8_0, KINDS.Q4_1):
        name = f"blk.0.{kind.name}"
        arrays[name] = gguf.quantize(rng.normal(size=(4, 64)).astype(np.float32), kind)
        writer.add_tensor(name, arrays[name], raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, arrays


def parsed(data):
    return _gguf.parse(lambda at, count: data[at : at + count], len(data))


def test_blocks_are_those_of_the_formats_own_package():
    for number, (name, weights, length) in _gguf.BLOCKS.items():
        kind = KINDS(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, weights, length)


def test_a_sealed_file_opens_tensor_by_tensor(model, tmp_path):
    path, arrays = model
    assert envelope.seal(path, tmp_path / "s", [public(ALICE)]) == "bytes"
    with envelope.open(tmp_path / "s", ALICE) as sealed:
        assert set(sealed.names) == set(arrays)
        assert same({name: sealed.array(name) for name in sealed.names}, arrays)
        assert same(sealed.load(), arrays)
        assert sealed.metadata["general.name"] == "small\x1b model"
        assert sealed.metadata["tokens"] == "[3 values]"
        with pytest.raises(KeyError):
            sealed.array("blk.1")
        sealed.export(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert same(envelope.load(tmp_path / "s", ALICE), arrays)


def test_what_is_read_is_what_the_formats_own_package_reads(model):
    path, _ = model
    found, reader = parsed(path.read_bytes()), gguf.GGUFReader(path)
    assert {one.name: found.start + one.begin for one in found.tensors} == {
        one.name: int(one.data_offset) for one in reader.tensors
    }
    assert found.types == {one.name: one.tensor_type.name for one in reader.tensors}


def test_inspect_says_what_is_in_it(model, tmp_path):
    path, _ = model
    ran = within(tmp_path, "inspect", path)
    assert ran.code == 0
    assert b"plain GGUF, version 3, 6 tensors in the open" in ran.out
    assert b"3 F32" not in ran.out
    assert b"2 F32" in ran.out
    assert b"small\\x1b model" in ran.out
    (tmp_path / "cut").write_bytes(path.read_bytes()[:200])
    ran = within(tmp_path, "inspect", "cut")
    assert ran.code
    assert "cut off" in ran.told


def test_a_locked_gguf_file_is_refused_with_what_to_do(model, tmp_path):
    secret.save_key(ALICE, tmp_path / "k")
    ran = within(tmp_path, "lock", model[0], "l", "--key", "k")
    assert ran.code
    assert "GGUF" in ran.told
    assert "seal it as it is" in ran.told


def head(*fields, version=3, tensors=0, metadata=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, metadata) + b"".join(fields)


def tensor(name, shape, kind, begin):
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + sizes + struct.pack("<IQ", kind, begin)


def field(name, kind, value):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


DEEP = struct.pack("<IQ", 9, 1) * 9
WRONG = {
    "another format": (b"GGML" + bytes(99), "not a GGUF file"),
    "another version": (head(version=1), "of version 1"),
    "a name that is longer than the file": (head(struct.pack("<Q", 2**60), tensors=1), "cut off"),
    "more fields than there are": (head(metadata=2**63), "cut off"),
    "a text that is no text": (
        head(field(b"a", 8, struct.pack("<Q", 1) + b"\xff"), metadata=1), "UTF-8",
    ),
    "a field twice": (head(*[field(b"a", 0, b"1")] * 2, metadata=2), "metadata twice"),
    "an unknown value": (head(field(b"a", 13, bytes(8)), metadata=1), "type that is not known"),
    "arrays of arrays without end": (head(field(b"a", 9, DEEP), metadata=1), "type that is not known"),
    "an array that is longer than the file": (
        head(field(b"a", 9, struct.pack("<IQ", 4, 2**62)), metadata=1), "cut off",
    ),
    "no alignment": (
        head(field(b"general.alignment", 4, bytes(4)), metadata=1), "alignment",
    ),
    "a tensor twice": (head(*[tensor(b"t", (1,), 0, 0)] * 2, tensors=2), "tensor twice"),
    "many axes": (head(tensor(b"t", (1,) * 5, 0, 0), tensors=1), "5 axes"),
    "a huge shape": (head(tensor(b"t", (2**40, 2**40), 0, 0), tensors=1), "no array can have"),
    "an unknown type": (head(tensor(b"t", (32,), 99, 0), tensors=1), "type 99"),
    "part of a block": (head(tensor(b"t", (33,), 8, 0), tensors=1), "whole blocks of Q8_0"),
    "a tensor beyond the end": (head(tensor(b"t", (2**20,), 0, 0), tensors=1), "overlap"),
    "a place out of step": (head(tensor(b"t", (1,), 0, 1), tensors=1) + bytes(99), "overlap"),
    "tensors that overlap": (
        head(tensor(b"t", (9,), 0, 0), tensor(b"u", (1,), 0, 32), tensors=2) + bytes(99), "overlap",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_strangers_file_is_refused_in_words(name, tmp_path):
    data, why = WRONG[name]
    with pytest.raises(ValueError, match=why):
        parsed(data)
    if data.startswith(b"GGUF"):
        envelope.seal(data, tmp_path / "s", [public(ALICE)])
        with envelope.open(tmp_path / "s", ALICE) as sealed, pytest.raises(Unreadable, match=why):
            sealed.load()


def test_ten_thousand_mutants_give_arrays_or_one_fault(model):
    data, rng = model[0].read_bytes(), np.random.default_rng(0)
    start = parsed(data).start
    fine, faults = 0, []
    for _ in range(10_000):
        mutant = bytearray(data)
        for at in rng.integers(0, start, int(rng.integers(1, 4))):
            mutant[at] = int(rng.choice([0, 1, 9, 127, 255, rng.integers(256)]))
        try:
            found = parsed(bytes(mutant))
        except ValueError as error:
            faults.append(str(error))
            continue
        fine += 1
        ends = [0, *(one.end for one in found.tensors)]
        assert all(one.begin >= end for one, end in zip(found.tensors, ends))
        assert found.start + ends[-1] <= len(data)
    assert 0 < fine < 10_000
    assert not [fault for fault in faults if not fault.isprintable()]
