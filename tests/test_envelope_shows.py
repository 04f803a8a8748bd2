"""What a sealed file, and an error about it, shows to those without a key: nothing of the content."""

import base64
import json
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers.hidden import shows
from helpers.sealed import ALICE, BOB, MALLORY, OWNER, apart, header_of, public, some, together

from modellock_jax.vault.errors import Expired, Tampered, WrongKey
from modellock_jax.vault.keys import identity
from modellock_jax.vault.sealed import _header, envelope
from modellock_jax.vault.sealed.recipients import Passphrase


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.sealed"


def spellings(raw: bytes) -> list[bytes]:
    """Raw, in hex, and in base64 at each of the three places in a group of four digits."""
    found = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for skip in range(3):
        middle = raw[skip : skip + (len(raw) - skip) // 3 * 3]
        found += [base64.b64encode(middle), base64.urlsafe_b64encode(middle)]
    return found


def test_the_bytes_of_a_file_show_no_name_value_or_key(path):
    arrays, phrase = some(), "correct horse battery staple"
    envelope.seal(
        arrays,
        path,
        [public(ALICE), identity.public_key(BOB, classic=True), Passphrase(phrase)],
        metadata={"architecture": "a telling description"},
        signers=[OWNER],
    )
    data = path.read_bytes()
    made = header_of(path)
    hidden = [name.encode() for name in arrays]
    hidden += [piece.encode() for name in arrays for piece in name.split("/") if len(piece) > 5]
    hidden += [b"architecture", b"a telling description", phrase.encode()]
    for array in arrays.values():
        if array.dtype.kind == "f":
            hidden += [array.tobytes()[i : i + 8] for i in range(0, array.nbytes - 7, 4)]
    for raw in hidden:
        for spelling in spellings(raw):
            assert spelling not in data, raw
    for dtype in (b'"F32', b'"F64', b'"I64', b"float"):
        assert dtype not in data[: made.room]
    file_key = _header.file_key_of(made, ALICE)
    uses = [_header.file_key_use(file_key, made.file_id, use) for use in ("payload", "header")]
    text = data.decode("latin1")
    private = [ALICE.derive(n, use) for n, use in ((32, "x25519"), (64, "mlkem768"))]
    private += [OWNER.derive(32, use) for use in ("ed25519", "mldsa65")]
    for raw in (file_key, *uses, *private, *(one._reveal() for one in (ALICE, BOB, OWNER))):
        assert not shows(text, raw)
    assert shows(text + file_key.hex(), file_key)  # the search finds what it looks for


def test_a_plain_loader_gets_one_row_of_bytes(path):
    envelope.seal(arrays := some(), path, [public(ALICE)], metadata={"architecture": "vit"})
    loaded = safetensors.numpy.load_file(path)
    assert list(loaded) == ["sealed"]
    assert loaded["sealed"].dtype == np.uint8
    assert loaded["sealed"].shape == (header_of(path).body,)
    with safetensors.safe_open(path, "np") as plain:
        metadata = plain.metadata()
        assert set(metadata) == {"about", "checksum", "header", "modellock", "version"}
        assert "can keep and pass on a copy" in metadata["about"]
    fields = {"id", "body", "digest", "expires", "recipients", "mac", "signatures", "room"}
    fields |= {"name", "serial", "extra"}
    assert set(json.loads(metadata["header"])) == fields
    shapes = [str(list(array.shape)) for array in arrays.values()]
    assert not any(shape in str(metadata).replace(", ", ",") for shape in shapes)


def test_the_body_looks_random_and_is_never_the_same(path):
    """Of arrays of zeros, too; and no two chunks of equal content are equal."""
    bodies = []
    for _ in range(2):
        envelope.seal({"a": np.zeros(2**16), "b": np.zeros(2**16)}, path, [public(ALICE)])
        bodies.append(apart(path.read_bytes())[1])
    first, second = (np.frombuffer(body, np.uint8) for body in bodies)
    assert abs((first == second).mean() - 1 / 256) < 5e-4
    half = len(first) // 2
    assert abs((first[:half] == first[-half:]).mean() - 1 / 256) < 5e-4
    assert len(zlib.compress(bodies[0])) > len(bodies[0])


def test_errors_show_no_key(path):
    envelope.seal(some(), path, [public(ALICE)], expires=datetime(2020, 1, 1, tzinfo=UTC))
    made, body = apart(path.read_bytes())
    with pytest.raises(Expired) as expired:
        envelope.load(path, ALICE)
    file_key = _header.file_key_of(made, ALICE)
    with pytest.raises(WrongKey) as wrong:
        envelope.load(path, MALLORY)
    path.write_bytes(together(made._replace(expires=""), body))
    with pytest.raises(Tampered) as tampered:
        envelope.load(path, ALICE)
    for caught in (expired, wrong, tampered):
        text = repr(caught.value) + str(caught.value.args) + repr(ALICE) + repr(Passphrase("horse"))
        for raw in (file_key, ALICE._reveal(), MALLORY._reveal()):
            assert not shows(text, raw)
        assert "horse" not in text
