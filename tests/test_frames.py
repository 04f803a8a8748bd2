"""No error of the vault carries a secret along, wherever it happens: in no frame, no container."""

import functools
import os
import shutil
import sys
from pathlib import Path

import pytest
import shamir_mnemonic
from helpers.hidden import RAW, SECRET, held, shows
from helpers.sealed import ALICE, public, some
from safetensors.numpy import save_file

from modellock_jax.cli import choosing
from modellock_jax.vault import _frames
from modellock_jax.vault.issuing.copies import issue
from modellock_jax.vault.keys import identity, share_files, shares
from modellock_jax.vault.keys.secret import Secret, generate_key, load_key, save_key
from modellock_jax.vault.locked.files import load_locked, lock_file, unlock_file
from modellock_jax.vault.locked.sets import lock_set, unlock_set
from modellock_jax.vault.sealed import envelope, recipients, sets
from modellock_jax.vault.sealed.recipients import Passphrase
from modellock_jax.vault.sealed.rewrite import rewrite

VAULT = tuple(str(Path(one.__file__).parent) for one in (_frames, choosing, shamir_mnemonic))
WORDS = "correct horse battery staple"
FILE_KEY = bytes(range(100, 132))
POINTS = 20  # lines of each operation at which it fails, spread over all that it runs
REAL = os.urandom


class Injected(Exception):
    """What no code expects."""


def interrupting(call, stop):
    """Run `call`, with an error at the line number `stop` of those that the vault runs; how many ran."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if (
            not frame.f_code.co_filename.startswith(VAULT)
            or frame.f_code.co_filename == _frames.__file__
        ):
            return None
        if event == "line":
            count += 1
            if count == stop:
                raise Injected
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of every kind, all under secrets that the search knows."""
    monkeypatch.setattr(os, "urandom", lambda n: FILE_KEY[:n] if n == 32 else REAL(n))
    quick = functools.partial(recipients.Argon2id, length=32, iterations=1, lanes=1, memory_cost=8)
    monkeypatch.setattr(recipients, "Argon2id", lambda *, salt, **_: quick(salt=salt))
    save_key(SECRET, tmp_path / "owner.key")
    identity.save_public_key(identity.public_key(SECRET), tmp_path / "owner.pub")
    save_file(some(), tmp_path / "m.st")
    whom = [identity.public_key(SECRET), Passphrase(WORDS)]
    envelope.seal(some(), tmp_path / "m.sealed", whom, signers=[SECRET])
    lock_file(tmp_path / "m.st", tmp_path / "l.st", SECRET, "stream_lock")
    share_files.save(shares.split(SECRET, 2, 3), tmp_path / "shares")
    (tmp_path / "plain").mkdir()
    save_file({"w": some()["running_statistics"]}, tmp_path / "plain" / "m")
    sets.seal_set(tmp_path / "plain", tmp_path / "set", whom)
    lock_set(tmp_path / "plain", tmp_path / "locked", SECRET, "stream_lock")
    return tmp_path


def fresh(folder):
    """A file that no attempt before left locked: stopped between two lines, a descriptor stays open."""
    return shutil.copy(folder / "m.sealed", folder / f"{REAL(8).hex()}.sealed")


def join(folder):
    return shares.join([share_files.load(f"{folder}/shares/share-{i}-of-3.txt") for i in (1, 2)])


def from_environment(folder):
    os.environ[choosing.KEY] = (folder / "owner.key").read_text()
    choosing.Choice(None).first()


def words_from_a_file(folder):
    (folder / "words").write_text(WORDS)
    choosing.ask_passphrase(False, folder / "words")


def rotated(folder):
    with envelope.open(folder / "m.sealed", SECRET) as sealed:
        envelope.rotate(sealed, folder / "r.sealed", [public(ALICE)])


def set_opened(folder):
    with sets.open_set(folder / "set", SECRET).member("m") as sealed:
        sealed.load()


OPERATIONS = {
    "generate": lambda folder: generate_key().id,
    "save": lambda folder: save_key(SECRET, folder / f"{REAL(8).hex()}.key"),
    "load": lambda folder: load_key(folder / "owner.key"),
    "from the environment": from_environment,
    "words from a file": words_from_a_file,
    "child": lambda folder: Secret(RAW).child("team/user").id,
    "words": lambda folder: Secret(RAW).source("label").split(2)[1].words(8),
    "public": lambda folder: identity.public_key(Secret(RAW)),
    "sign": lambda folder: identity.sign(SECRET, b"message"),
    "wrap": lambda folder: recipients.wrap_all(FILE_KEY, [public(ALICE), Passphrase(WORDS)], b""),
    "seal": lambda folder: envelope.seal(
        folder / "m.st", folder / "n.sealed", [public(ALICE)], signers=[SECRET]
    ),
    "open": lambda folder: envelope.open(folder / "m.sealed", SECRET).load(),
    "open with words": lambda folder: envelope.open(folder / "m.sealed", Passphrase(WORDS)),
    "rotate": rotated,
    "seal a set": lambda folder: sets.seal_set(
        folder / "plain", folder / REAL(8).hex(), [public(ALICE)]
    ),
    "open a set": set_opened,
    "lock a set": lambda folder: lock_set(
        folder / "plain", folder / REAL(8).hex(), SECRET, "stream_lock"
    ),
    "unlock a set": lambda folder: unlock_set(folder / "locked", folder / REAL(8).hex(), SECRET),
    "rewrite": lambda folder: rewrite(fresh(folder), SECRET, unwrapped_again),
    "lock": lambda folder: lock_file(folder / "m.st", folder / "x", SECRET, "stream_lock"),
    "unlock": lambda folder: unlock_file(folder / "l.st", folder / "y", SECRET),
    "load locked": lambda folder: load_locked(folder / "l.st", SECRET),
    "split": lambda folder: share_files.save(shares.split(SECRET, 2, 3), folder / REAL(8).hex()),
    "join": join,
    "issue": lambda folder: issue(
        folder / "m.st", folder / "out", ["alice"], SECRET, folder / REAL(8).hex()
    ),
}


def unwrapped_again(made, file_key):
    new = recipients.wrap_all(file_key, [public(ALICE), identity.public_key(SECRET)], made.file_id)
    return made._replace(stanzas=recipients.merge(made.stanzas, new))


@pytest.fixture(scope="module")
def known():
    """Every secret that an operation meets, in forms that `shows` does not know by itself."""
    derived = [SECRET.derive(n, name) for n, name in
               ((32, "x25519"), (64, "mlkem768"), (32, "ed25519"), (32, "mldsa65"))]  # fmt: skip
    return [RAW, FILE_KEY, *derived]


def leaks(error, raws, words=()):
    found = []
    for where, text in held(error):
        if any(shows(text, raw) for raw in raws) or WORDS in text:
            found.append(where)
        if words and any(three in " ".join(text.split()) for three in words):
            found.append(where)
    return found


# An error between the opening of a file and its `with` leaves it to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_error_at_any_line_carries_no_secret(name, folder, known, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv(choosing.KEY, "")
    monkeypatch.delenv(choosing.KEY)
    parts = []
    for share in (folder / "shares").iterdir():
        said = share_files.load(share)._reveal().mnemonic().split()[4:]
        parts += [" ".join(three) for three in zip(said, said[1:], said[2:])]
    if name in ("issue", "lock a set", "lock"):
        known = [one for one in known if one != FILE_KEY]  # a salt or a nonce, which is no secret

    def call():
        OPERATIONS[name](folder)

    lines = interrupting(call, -1)
    assert lines > 5
    stops = sorted({1 + i * (lines - 1) // POINTS for i in range(POINTS)} | {*range(1, 12)})
    hit = 0
    for stop in stops:
        try:
            interrupting(call, stop)
        except BaseException as error:
            found = leaks(error, known, parts)
            hit += 1
        else:
            found = []
        assert found == [], stop
    assert hit >= min(len(stops), lines) // 2
