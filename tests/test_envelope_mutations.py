"""1,000 mutated files: none opens, each ends in a fault of ours, memory stays by the file's size.

Every file is opened by a recipient and without a required signature, so nothing but the file itself
can give the change away. A file without a stanza for that recipient cannot be told from one that
was never meant for them: there, and only there, the fault is the wrong key.
"""

import collections
import json
import os
import tracemalloc

import numpy as np
import pytest
from helpers.mutant_heads import all_claims, base64_noise
from helpers.mutants import CHUNK, FAMILIES, REWRITTEN, Case, cut
from helpers.sealed import ALICE, OWNER, apart, body_of, public, same, some, together

from modellock_jax.vault._json import strict_json
from modellock_jax.vault.errors import Tampered, WrongKey
from modellock_jax.vault.sealed import _chunks, _header, envelope
from modellock_jax.vault.sealed.recipients import Passphrase
from modellock_jax.vault.sealed.rewrite import journal_of

FOLD = 4  # times the file's bytes
SLACK = 2**20


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(_chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(_chunks, "THREADS", 1)
    monkeypatch.setattr(_header, "ROOM", 4096)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


@pytest.mark.parametrize("total", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_mutated_file_opens(case, total):
    counts = {family: count * total // 10_000 for family, count in FAMILIES.items()}
    assert sum(counts.values()) == total
    assert same(envelope.load(case.path, ALICE, signed_by=[public(OWNER)]), some())
    rng = np.random.default_rng(10_000)
    codes = {family.__name__: collections.Counter() for family in FAMILIES}
    opened = len(os.listdir("/proc/self/fd"))
    for family, count in counts.items():
        for _ in range(count):
            data = case.data
            while data == case.data:
                data = family(case, rng)
            code = case.try_to_open(data)
            codes[family.__name__][code] += 1
            # Rewritten, checksum and all, without a stanza that names the recipient.
            not_theirs = family in REWRITTEN and ALICE.id.encode() not in data
            assert code in ((3, 4, 6) if not_theirs else (4, 6)), (
                family.__name__,
                code,
                data[:200],
            )
            if family is cut and case.data.startswith(data) and len(data) > 100:
                assert code == 4  # a file that is cut off is told from a foreign one
    print({name: dict(counter) for name, counter in codes.items()})
    assert len(os.listdir("/proc/self/fd")) == opened
    assert codes["edit_stanzas"][3] > 0
    assert case.try_to_open(case.data) == 0


def test_memory_is_bounded_by_the_file_whatever_it_claims(case):
    tracemalloc.start()
    try:
        for data in all_claims(case):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert case.try_to_open(data) in (4, 6)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < FOLD * len(data) + SLACK, (peak / len(data), data[:300])
    finally:
        tracemalloc.stop()


def forged(case, kind: str, plain: bytes) -> bytes:
    """What only a recipient can write: a body under the file's key, and a header for it."""
    body = body_of(case.file_key, case.made, kind, plain + bytes(3000))
    made = _header.finish(case.made._replace(body=len(body), digest=b""), case.file_key)
    return together(made, body)


def test_a_recipient_cannot_make_a_file_that_exhausts_another(case):
    """Directories that are authentic, and lie."""

    def entry(name, shape, end, begin=0, dtype="F32"):
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        return (bytes(8) + json.dumps({name: entry}).encode()).ljust(200)

    huge = 2**60
    directories = [
        entry("a", [huge], 4 * huge),
        entry("a", [huge, 0], 0),
        entry("a", [2**62, 2**62, 0], 0),
        entry("a", [1] * 65, 4),
        entry("a", [10], 44, 4),
        entry("a", [-1], -4),
        entry("a", [10], 40, dtype="F33"),
        bytes(8) + b"[" * 5000,
        bytes(8) + b'{"a":NaN}',
        bytes(8) + b"\xff\xfe",
        b"",
        bytes(3),
    ]
    lengths = [0, 1, 7, huge, 2**63, 2**64 - 1, len(case.body), len(case.body) - 24]
    lies = [len(d[8:]).to_bytes(8, "little") + d[8:] for d in directories]
    lies += [n.to_bytes(8, "little") + directories[0][8:] for n in lengths]
    tracemalloc.start()
    try:
        for plain in lies:
            data = forged(case, "safetensors", plain)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert case.try_to_open(data) == 4, plain[:80]
            assert tracemalloc.get_traced_memory()[1] - before < FOLD * len(data) + SLACK
    finally:
        tracemalloc.stop()
    assert case.try_to_open(forged(case, "something new", b"")) == 6


def test_no_journal_makes_a_mutated_file_open(case):
    """Another file's, a mutated one, an older state with another body."""
    rng = np.random.default_rng(7)
    heads = [case.other[: case.made.room], case.data[: case.made.room]]
    for i in range(300):
        journal = bytearray(heads[i % 2])
        for _ in range(rng.integers(1, 4)) if i % 2 else range(i % 4):
            journal[rng.integers(case.used)] ^= 1 << rng.integers(8)
        journal_of(case.path).write_bytes(journal)
        data = bytearray(case.data)
        data[rng.integers(8, case.used)] ^= 1 << rng.integers(7)
        assert case.try_to_open(bytes(data)) in (4, 6)
        assert case.try_to_open(case.data) == 0  # a whole head needs no journal


def test_a_changed_passphrase_stanza_is_a_wrong_passphrase_to_its_holder(case):
    """They cannot be told apart by anybody; the unkeyed checksum finds damage before."""
    phrase = Passphrase("horse")
    envelope.seal(some(), case.path, [phrase, public(ALICE)])
    made, body = apart(case.path.read_bytes())
    rng = np.random.default_rng(1)
    wrapped = base64_noise(made.stanzas[0]["wrapped"], rng)
    changed = made._replace(stanzas=(made.stanzas[0] | {"wrapped": wrapped}, made.stanzas[1]))
    case.path.write_bytes(together(changed, body))
    with pytest.raises(WrongKey):
        envelope.load(case.path, phrase)
    with pytest.raises(Tampered):  # whoever else has a key sees it
        envelope.load(case.path, ALICE)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b'{"a":1,"a":1}', "a key twice"),
        (b'{"a":{"b":1,"\\u0062":2}}', "a key twice"),
        (b"NaN", "JSON does not know"),
        (b"[-Infinity]", "JSON does not know"),
        (b"1e400", "too large"),
        (b"-1" + b"0" * 400, "too large"),
        (b"9" * 5000, "too large"),
        (b"[" * 100_000, "too deeply|not JSON"),
        (b'{"a":' * 100_000, "too deeply|not JSON"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'"\n"', "not JSON"),
    ],
    ids=range(15),
)
def test_json_of_two_meanings_is_refused(text, wrong):
    with pytest.raises(ValueError, match=wrong) as caught:
        strict_json(text)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 60


def test_json_of_one_meaning_is_read():
    text = b'{"a":[1,-2.5e3,12345678901234567890,true,null,"\\u00e9"]}'
    assert strict_json(text) == {"a": [1, -2500.0, 12345678901234567890, True, None, "é"]}


def test_a_chunk_opens_nowhere_but_in_its_place():
    """Each of number, binding and key alone; a refused chunk leaves nothing in the buffer."""
    key, binding = bytes(32), bytes(32)
    sealed, into = bytearray(5 + _chunks.TAG), bytearray(b"12345")
    _chunks.Cipher(key, binding).seal(3, b"plain", sealed)
    wrong = [(_chunks.Cipher(bytes(31) + b"1", binding), 3)]
    wrong += [(_chunks.Cipher(key, bytes(31) + b"1"), 3), (_chunks.Cipher(key, binding), 4)]
    for cipher, number in wrong:
        with pytest.raises(Tampered, match=f"chunk {number} was changed, moved or"):
            cipher.open(number, sealed, into)
        assert into == bytes(5)
    _chunks.Cipher(key, binding).open(3, sealed, into)
    assert into == b"plain"
