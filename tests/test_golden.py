"""Files of every kind that were committed once open to the same values at every later commit."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from golden import make
from helpers import independent_reader as reader
from helpers import independent_records as records

from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.keys import identity, share_files, shares
from modellock_jax.vault.keys.secret import load_key
from modellock_jax.vault.locked.files import locked_info, unlock_file
from modellock_jax.vault.locked.sets import unlock_set
from modellock_jax.vault.sealed import envelope, sets
from modellock_jax.vault.sealed.recipients import Passphrase

GOLDEN = Path(__file__).parent / "golden"
SAYS = (
    "a committed file no longer reads as it did: mend the code, or raise the version of its format, "
    "run tests/golden/make.py, and say why in tests/golden/VERSIONS.json and in the changelog"
)


@pytest.fixture
def golden(tmp_path):
    """The golden files, with the modes that Git does not keep."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    for path in (tmp_path / "golden").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return tmp_path / "golden"


def same(found):
    expected = make.content()
    return found.keys() == expected.keys() and all(
        found[name].dtype == one.dtype
        and found[name].shape == one.shape
        and found[name].tobytes() == one.tobytes()
        for name, one in expected.items()
    )


def test_every_version_is_the_committed_one_and_has_its_reason():
    kept = json.loads((GOLDEN / "VERSIONS.json").read_text())
    assert {mark: one["version"] for mark, one in kept.items()} == make.VERSIONS, SAYS
    assert all(len(one["why"]) > 20 for one in kept.values()), SAYS


@pytest.mark.parametrize("name", ["alice", "bob", "owner"])
def test_keys_and_public_keys(golden, name):
    found = load_key(golden / f"TEST-ONLY-{name}.key")
    assert found == make.secret(name), SAYS
    public = identity.load_public_key(golden / f"{name}.pub")
    assert public == identity.public_key(found, classic=name == "bob"), SAYS
    assert found.ids[public.kind] == public.id, SAYS


def test_a_sealed_file_for_three(golden):
    alice, bob = (load_key(golden / f"TEST-ONLY-{name}.key") for name in ("alice", "bob"))
    owner = identity.load_public_key(golden / "owner.pub")
    for unlocker in (alice, bob, Passphrase(make.PASSPHRASE)):
        with envelope.open(
            golden / "model.sealed", unlocker, signed_by=[owner], expect="golden@3"
        ) as sealed:
            assert same(sealed.load()), SAYS
            assert sealed.metadata == make.METADATA, SAYS
            sealed.export(golden / "opened")
        assert (golden / "opened").read_bytes() == (golden / "plain.safetensors").read_bytes(), SAYS


def test_a_sealed_file_of_any_bytes(golden):
    with envelope.open(golden / "bytes.sealed", make.secret("alice")) as sealed:
        assert b"".join(map(bytes, sealed.plain())) == make.ANY, SAYS


@pytest.mark.parametrize("name", ["locked", "chain"])
def test_locked_files(golden, name):
    source, target = golden / f"{name}.safetensors", golden / "unlocked"
    assert locked_info(source).label == "golden", SAYS
    unlock_file(source, target, make.secret("alice"))
    assert target.read_bytes() == (golden / "plain.safetensors").read_bytes(), SAYS


def files_of(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_sets(golden):
    owner, plain = identity.load_public_key(golden / "owner.pub"), files_of(golden / "model")
    for name in ("alice", "bob"):
        with sets.open_set(
            golden / "set", make.secret(name), signed_by=[owner], expect="golden@3"
        ) as opened:
            opened.export(golden / f"opened-by-{name}")
        assert files_of(golden / f"opened-by-{name}") == plain, SAYS
    unlock_set(golden / "locked-set", golden / "unlocked-set", make.secret("alice"))
    assert files_of(golden / "unlocked-set") == plain, SAYS


def test_shares(golden):
    found = [share_files.load(golden / "TEST-ONLY-shares" / f"share-{i}-of-3.txt") for i in (1, 3)]
    assert shares.join(found) == make.secret("alice"), SAYS


def test_a_register_its_copies_and_a_list(golden):
    owner = identity.load_public_key(golden / "owner.pub")
    book = register.read(golden / "register", owner)
    first, second = book.entries
    assert (first.user, second.user, second.supersedes) == ("ann", "ann", first.key), SAYS
    for entry in book.entries:
        stem = golden / "issued" / f"ann.{entry.key}"
        secret = load_key(f"{stem}.key")
        assert secret.id == entry.key, SAYS
        copy = Path(f"{stem}.safetensors")
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == entry.copy, SAYS
        unlock_file(copy, golden / "unlocked", secret)
        plain = (golden / "unlocked").read_bytes()
        assert hashlib.sha256(plain).hexdigest() == entry.plain, SAYS
    found = revocation.read(golden / "list.json")
    assert found.signer == owner, SAYS
    assert [(one.id, one.reason) for one in found.revoked] == [
        (make.secret("alice").id, make.REASON)
    ], SAYS


def test_the_second_reader_reads_them_too():
    plain = (GOLDEN / "plain.safetensors").read_bytes()
    alice, bob = (
        reader.read_key((GOLDEN / f"TEST-ONLY-{name}.key").read_bytes())
        for name in ("alice", "bob")
    )
    sealed = (GOLDEN / "model.sealed").read_bytes()
    owner = json.loads((GOLDEN / "owner.pub").read_text())
    signer = {name: owner[name] for name in ("kind", "id", *reader.KEYS)}
    for unlocker in (alice, bob, make.PASSPHRASE):
        assert reader.open_sealed(sealed, unlocker, [signer]) == ("safetensors", plain)
    model = files_of(GOLDEN / "model")
    assert records.open_set(files_of(GOLDEN / "set"), alice, [signer]) == model
    assert records.unlock_set(files_of(GOLDEN / "locked-set"), alice) == model
    assert records.unlock((GOLDEN / "locked.safetensors").read_bytes(), alice) == plain
    assert records.read_register((GOLDEN / "register").read_bytes())[0] == signer
    assert records.read_list((GOLDEN / "list.json").read_bytes())[0] == signer
