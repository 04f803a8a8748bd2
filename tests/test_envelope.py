"""Sealed files: bits come back, for recipients alone, and nothing of them is in the open."""

import base64
import json
import os
import stat
import time
from datetime import datetime

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers.sealed import (
    ALICE,
    BOB,
    MALLORY,
    apart,
    header_of,
    public,
    same,
    secret,
    some,
    together,
)

from modellock_jax.vault import _tensors
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.keys import identity
from modellock_jax.vault.sealed import _chunks, _header, envelope, recipients
from modellock_jax.vault.sealed.recipients import Passphrase

RNG = np.random.default_rng(4)
SHAPES = [(), (0,), (0, 3), (3, 0), (1,), (7, 5), (2, 3, 4), (1,) * 64]
NAMES = ["", " ", "a/b/c", "é 鍵 🔑", '"\\', "\n\x00\x7f", "x" * 1000, "length", "directory"]
NAMES += ["tensor/", "tensor/length", "sealed", "__proto__", "__metadata", "../../etc/passwd"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.sealed"


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks an array, and ends at and beside their borders."""
    monkeypatch.setattr(_chunks, "CHUNK", 64)


def bits(dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Every bit at random: NaNs of many payloads, negative zeros, denormals."""
    if dtype == np.bool_:
        return RNG.integers(0, 2, shape).astype(bool)
    return np.frombuffer(RNG.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


# Round trips


@pytest.mark.parametrize("dtype", _tensors.DTYPES.values(), ids=_tensors.DTYPES)
def test_every_bit_of_every_dtype_comes_back(path, dtype, small_chunks):
    arrays = {str(shape): bits(dtype, shape) for shape in SHAPES}
    envelope.seal(arrays, path, [public(ALICE)])
    assert same(envelope.load(path, ALICE), arrays)
    with envelope.open(path, ALICE) as sealed:
        assert same({name: sealed.array(name) for name in reversed(sealed.names)}, arrays)


def test_any_name_layout_and_length_comes_back(path, small_chunks):
    arrays = {name: bits(np.dtype(np.uint8), (i,)) for i, name in enumerate(NAMES)}
    arrays |= {
        f"{n} bytes": bits(np.dtype(np.int8), (n,)) for n in (63, 64, 65, 127, 128, 129, 1000)
    }
    square = np.arange(36.0).reshape(6, 6)
    arrays |= {"columns first": np.asfortranarray(square), "every other": square[::2, ::-3]}
    arrays |= {"backwards": square.T, "read only": np.broadcast_to(square[0], (3, 6))}
    metadata = {"format": "pt", "": "", "é": "鍵\n"}
    envelope.seal(arrays, path, [public(ALICE)], metadata=metadata)
    with envelope.open(path, ALICE) as sealed:
        assert same(sealed.load(), arrays)
        assert sealed.metadata == metadata
        assert set(sealed.names) == set(arrays)
        with pytest.raises(KeyError, match="no array 'absent'"):
            sealed.array("absent")
    envelope.seal({}, path, [public(ALICE)])
    assert envelope.load(path, ALICE) == {}


def test_one_array_is_decrypted_alone(path, small_chunks):
    """All chunks that hold nothing of it are destroyed, and it still opens."""
    envelope.seal(some(), path, [public(ALICE)])
    made, body = apart(path.read_bytes())
    directory = _tensors.lay_out(some(), {})
    wanted = directory.tensors.find("running_statistics")
    start = 16 + len(directory.head)
    size, kept = 64 + _chunks.TAG, range(-(-start // 64))
    needed = {*kept, *range((start + wanted.begin) // 64, (start + wanted.end - 1) // 64 + 1)}
    numbers = range(-(-len(body) // size))
    parts = [body[i * size : (i + 1) * size] for i in numbers]
    hurt = [part if i in needed else bytes(len(part)) for i, part in enumerate(parts)]
    assert 0 < len(needed) < len(numbers) - 2
    with envelope.open(path, ALICE) as sealed:
        path.write_bytes(together(made, b"".join(hurt)))
        np.testing.assert_array_equal(sealed.array("running_statistics"), np.arange(40))
        with pytest.raises(Tampered, match="chunk"):
            sealed.array("decoder.weight_of_the_secret_head")
    with envelope.open(path, ALICE) as sealed:
        np.testing.assert_array_equal(sealed.array("running_statistics"), np.arange(40))


def others_files() -> dict[str, bytes]:
    """What other tools write: order of names, metadata, spelling and padding of their own."""
    arrays = {"z": np.arange(6, dtype=np.float32), "a": np.arange(3, dtype=np.int8)}
    files = {"safetensors": safetensors.numpy.save(arrays, {"format": "np", "é": "鍵"})}
    files["empty"] = safetensors.numpy.save({})
    entries = [f'"{n}" : {{"shape":[2],\t"data_offsets":[{i},{i + 2}], "dtype":"U8"}}' for n, i in
               (("b", 2), ("\\u0061/x", 0), ("c", 4))]  # fmt: skip
    entries.insert(1, '"__metadata__": {"k":"\\u00e9", "j":""}')
    text = ("{ " + ",\n".join(entries) + " }  \n").encode()
    files["by hand"] = len(text).to_bytes(8, "little") + text + b"abcdef"
    nothing = b'{"n":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}}'
    files["unaligned"] = len(nothing).to_bytes(8, "little") + nothing
    return files


@pytest.mark.parametrize("content", others_files().values(), ids=others_files())
def test_export_gives_the_very_bytes_of_anyones_file(tmp_path, path, content, small_chunks):
    source, back = tmp_path / "m.safetensors", tmp_path / "back"
    source.write_bytes(content)
    envelope.seal(source, path, [public(ALICE)])
    with envelope.open(path, ALICE) as sealed:
        sealed.export(back)
        loaded = safetensors.numpy.load(content)
        assert same(sealed.load(), loaded)
        with safetensors.safe_open(source, "np") as plain:
            assert sealed.names == list(plain.offset_keys())
            assert sealed.metadata == (plain.metadata() or {})
    assert back.read_bytes() == content


def test_sealing_over_the_source_itself(tmp_path):
    source = tmp_path / "m"
    source.write_bytes(content := others_files()["safetensors"])
    envelope.seal(source, source, [public(ALICE)])
    with envelope.open(source, ALICE) as sealed:
        sealed.export(source)
        assert source.read_bytes() == content
        assert sealed.array("a").tolist() == [0, 1, 2]  # the sealed file is still open


@pytest.mark.parametrize(
    "content", [b"", b"short", bytes([9]) + bytes(7) + b"{", b"x" * 100, None], ids=range(5)
)
def test_what_is_no_whole_safetensors_file_is_unreadable(tmp_path, path, content):
    source = tmp_path / "m.safetensors"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(Unreadable, match=f"^{source}"):
        envelope.seal(source, path, [public(ALICE)])
    assert not path.exists()


# Who opens it


KINDS = {
    "passphrase": (lambda: Passphrase("correct horse"), lambda: Passphrase("correct horse")),
    "classic": (lambda: identity.public_key(ALICE, classic=True), lambda: ALICE),
    "hybrid": (lambda: public(ALICE), lambda: ALICE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_recipient_and_no_other(path, kind):
    recipient, unlocker = (make() for make in KINDS[kind])
    envelope.seal(some(), path, [recipient, public(BOB)])
    for who in (unlocker, BOB):
        assert same(envelope.load(path, who), some())
    types = {"passphrase": "passphrase", "classic": "x25519", "hybrid": "mlkem768-x25519"}
    assert [s["type"] for s in header_of(path).stanzas] == [types[kind], "mlkem768-x25519"]
    for wrong in (MALLORY, Passphrase("correct horsf")):
        with pytest.raises(WrongKey, match=r"not for this key.*recipients are") as caught:
            envelope.load(path, wrong)
        assert caught.value.code == 3
        assert BOB.id in str(caught.value)


def test_a_wrong_key_is_told_from_damage_whatever_the_file_holds(path):
    """200 files, 200 wrong keys; after a flip in a head the same keys meet damage instead."""
    for i in range(200):
        envelope.seal({"a": np.arange(i)}, path, [public(ALICE)])
        with pytest.raises(WrongKey):
            envelope.load(path, secret(f"wrong {i}"))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Tampered):
        envelope.load(path, secret("wrong 0"))


def test_a_thousand_recipients(path):
    people = [secret(f"user {i}") for i in range(1000)]
    publics = [identity.public_key(one) for one in people]
    start = time.perf_counter()
    envelope.seal(some(), path, publics)
    sealing, start = time.perf_counter() - start, time.perf_counter()
    assert same(envelope.load(path, people[-1]), some())
    opening, size = time.perf_counter() - start, path.stat().st_size
    print(f"1,000 recipients: sealed in {sealing:.2f} s, opened in {opening:.2f} s, {size:,} bytes")
    assert size < 4 * 2**20
    for one in (people[0], people[500]):
        assert same(envelope.load(path, one), some())
    with pytest.raises(WrongKey, match="and 995 more") as caught:
        envelope.load(path, MALLORY)
    assert len(str(caught.value)) < 250


def test_what_nobody_could_open_is_not_written(path):
    """Refused at once, because found later it would be a lost file."""
    arrays, alice = some(), public(ALICE)
    for name in ("__metadata__", "\ud800"):
        with pytest.raises(ValueError, match="choose another name"):
            envelope.seal({name: np.zeros(1)}, path, [alice])
    with pytest.raises(TypeError, match="must be text, and 1 is not"):
        envelope.seal(arrays, path, [alice], metadata={"epoch": 1})
    with pytest.raises(TypeError, match="must be text, and 7 is not"):
        envelope.seal({7: np.zeros(1)}, path, [alice])
    for dtype in (">f4", "S3", object, "datetime64[s]", np.complex128):
        with pytest.raises(TypeError, match="'a' has dtype"):
            envelope.seal({"a": np.zeros(2, dtype)}, path, [alice])
    with pytest.raises(ValueError, match="needs a recipient"):
        envelope.seal(arrays, path, [])
    for wrong in (ALICE, "Alice", alice.x25519):
        with pytest.raises(TypeError, match="a PublicKey or a Passphrase, not a"):
            envelope.seal(arrays, path, [wrong])
    with pytest.raises(ValueError, match="time zone"):
        envelope.seal(arrays, path, [alice], expires=datetime(2030, 1, 1))
    nine = _header.Header(bytes(16), 24, b"", "", ({"type": "passphrase"},) * 9)
    with pytest.raises(ValueError, match="more than 8 passphrases"):
        _header.finish(nine, bytes(32))
    with pytest.raises(FileNotFoundError, match="create it first"):
        envelope.seal(arrays, path.parent / "absent" / "m", [alice])
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "Alice"), ("id", ["a"]), ("x25519", bytes(32)), ("mlkem768", b"\xff" * 1184)],
    ids=["id", "id of another type", "point of low order", "no ML-KEM key"],
)
def test_a_public_key_file_that_could_not_be_used_is_refused(tmp_path, field, value):
    """Sealing to it would fail later, or leave a file that nobody can open."""
    identity.save_public_key(public(ALICE), tmp_path / "a.pub")
    fields = json.loads((tmp_path / "a.pub").read_bytes())
    fields[field] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
    (tmp_path / "a.pub").write_text(json.dumps(fields))
    with pytest.raises(Unreadable, match="is a damaged public key file, which has"):
        identity.load_public_key(tmp_path / "a.pub")


def test_a_sealed_file_is_read_from_a_plain_file_only(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, word in (("pipe", "a pipe"), (".", "directory"), ("absent", "cannot be read")):
        with pytest.raises(Unreadable, match=word):
            envelope.load(tmp_path / name, ALICE)


def test_closed_is_closed(path):
    envelope.seal(some(), path, [public(ALICE)])
    sealed = envelope.open(path, ALICE)
    sealed.close()
    sealed.close()
    with pytest.raises(ValueError, match="closed file"):
        sealed.load()


def test_the_files_own_mode_is_the_umasks(path):
    before = os.umask(0o077)
    try:
        envelope.seal(some(), path, [public(ALICE)])
        with envelope.open(path, ALICE) as sealed:
            sealed.export(path.with_name("plain"))
    finally:
        os.umask(before)
    for written in (path, path.with_name("plain")):
        assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_a_passphrase_is_stretched_by_the_recommended_setting():
    """RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes; and bound to the file and the salt."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    stretch = Argon2id(salt=bytes(16), length=32, iterations=3, lanes=4, memory_cost=2**16)
    assert Passphrase("é").key(bytes(16)) == stretch.derive("é".encode())
    stanza = recipients.wrap(bytes(32), Passphrase("é"), bytes(16))
    assert recipients.unwrap(stanza, Passphrase("é"), bytes(16)) == bytes(32)
    assert recipients.unwrap(stanza, Passphrase("é"), bytes(15) + b"1") is None
