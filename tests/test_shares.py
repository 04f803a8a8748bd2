"""Keys in shares: published vectors, every subset, what k - 1 tell, mistyped words, the commands."""

import contextlib
import copy
import io
import itertools
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter

import pytest
import shamir_mnemonic
from hidden import RAW, SECRET, shows, told, write
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vault_cli import bad, good

from modellock_jax.cli import main
from modellock_jax.vault import keys, share_files, shares
from modellock_jax.vault.errors import Tampered, Unreadable, WrongKey
from modellock_jax.vault.keys import Secret
from modellock_jax.vault.recipients import Passphrase

WORDS = Passphrase("correct horse")
# SLIP-39, test vectors with 256-bit secrets, one group and the passphrase TREZOR: 20 and 23.
ALONE = (
    "theory painting academic academic armed sweater year military elder discuss acne wildlife "
    "boring employer fused large satoshi bundle carbon diagnose anatomy hamster leaves tracks paces "
    "beyond phantom capital marvel lips brave detect luck"
)
ALONE_IS = "989baf9dcaad5b10ca33dfd8cc75e42477025dce88ae83e75a230086a0e00e92"
TWO_OF_THREE = [
    "humidity disease academic always aluminum jewelry energy woman receiver strategy amuse duckling "
    "lying evidence network walnut tactics forget hairy rebound impulse brother survive clothes "
    "stadium mailman rival ocean reward venture always armed unwrap",
    "humidity disease academic agency actress jacket gross physics cylinder solution fake mortgage "
    "benefit public busy prepare sharp friar change work slow purchase ruler again tricycle involve "
    "viral wireless mixture anatomy desert cargo upgrade",
]
TWO_OF_THREE_IS = "c938b319067687e990e05e0da0ecce1278f75ff58d9853f19dcaeed5de104aae"


def text(words, key_id, share, needed, passphrase):
    lines = ["modellock-jax share of a key, version 1", f"Key: {key_id}", f"Share: {share}"]
    return "\n".join([*lines, f"Needed: {needed}", f"Passphrase: {passphrase}", "Words:", words])


def words_of(share):
    return share._reveal().mnemonic()


def clean(error, *held):
    """No three words of a share follow one another in it, nor does it show the key."""
    said = told(error)
    # The first four words of a share are its numbers.
    parts = {three for share in held for three in threes(words_of(share).split()[4:])}
    return not shows(said) and not parts & threes(re.findall("[a-z]+", said))


def threes(words):
    return {*zip(words, words[1:], words[2:])}


# The standard


@pytest.mark.parametrize(
    ("words", "share", "needed", "secret"),
    [([ALONE], ["1 of 1"], 1, ALONE_IS), (TWO_OF_THREE, ["3 of 3", "2 of 3"], 2, TWO_OF_THREE_IS)],
    ids=["1 of 1", "2 of 3"],
)
def test_published_vectors(tmp_path, words, share, needed, secret):
    secret = Secret(bytes.fromhex(secret))
    found = []
    for i, (one, place) in enumerate(zip(words, share)):
        content = text(one, secret.id, place, needed, "yes")
        found.append(share_files.load(write(tmp_path / f"{i}.txt", content.encode())))
    assert shares.join(found, Passphrase("TREZOR")) == secret
    with pytest.raises(WrongKey, match="passphrase"):
        shares.join(found, Passphrase("trezor"))


@pytest.mark.parametrize("passphrase", [None, WORDS], ids=["plain", "passphrase"])
def test_other_tools_restore_it(passphrase):
    """By the reference implementation alone, from the words alone."""
    made = shares.split(SECRET, 3, 5, passphrase)
    given = b"correct horse" if passphrase else b""
    for pick in (made[:3], made[2:], made[::2]):
        assert shamir_mnemonic.combine_mnemonics(map(words_of, pick), given) == RAW


# k of n


@pytest.mark.parametrize(("k", "n"), [(2, 2), (2, 3), (3, 5), (4, 6), (16, 16)])
def test_any_k_restore_it_and_fewer_are_refused(k, n):
    made = shares.split(SECRET, k, n)
    assert [(one.index, one.count, one.threshold) for one in made] == [
        (i + 1, n, k) for i in range(n)
    ]
    for size in range(1, n + 1):
        for pick in itertools.combinations(reversed(made), size):
            if size >= k:
                assert shares.join(pick) == SECRET
            elif size == k - 1:
                with pytest.raises(
                    ValueError, match=f"^{size} of the .*, and {k} are needed"
                ) as caught:
                    shares.join(pick)
                assert clean(caught.value, *made)


def test_k_minus_1_shares_are_as_random_for_one_key_as_for_another():
    first, second = (shares.split(SECRET, 3, 3) for _ in range(2))
    values = [share._reveal().value for share in first + second]
    assert len(set(values)) == 6
    assert not [v for v in values if v == RAW]
    # The low bit of each byte of the first share over many splits of one key and of another.
    for raw in (bytes(32), b"\xff" * 32):
        ones, splits = Counter(), 100
        for _ in range(splits):
            value = shares.split(Secret(raw), 2, 2)[0]._reveal().value
            ones.update(i for i in range(256) if value[i // 8] >> i % 8 & 1)
        total = sum(ones.values())
        assert abs(total - 256 * splits / 2) < 5 * (256 * splits / 4) ** 0.5
        assert max(abs(ones[i] - splits / 2) for i in range(256)) < 6 * (splits / 4) ** 0.5
    # Whatever the third share says, two shares and it interpolate to some 32 bytes.
    raw_share, at = shamir_mnemonic.shamir.RawShare, shamir_mnemonic.shamir._interpolate
    known = [raw_share(share._reveal().index, share._reveal().value) for share in first[:2]]
    reached = {at([*known, raw_share(2, bytes([third]) * 32)], 255)[0] for third in range(256)}
    assert reached == set(range(256))


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 3), (0, 3), (4, 3), (2, 17), (-1, 2)])
def test_numbers_that_cannot_be(k, n):
    with pytest.raises(ValueError, match=f"{k} of {n} shares cannot be"):
        shares.split(SECRET, k, n)


def test_shares_that_do_not_belong_together():
    ours, again, theirs = (shares.split(s, 2, 3) for s in (SECRET, SECRET, Secret(bytes(32))))
    more = shares.split(SECRET, 3, 3)
    cases = {
        "shares of two keys: share 1 of 3 is of": (ours[0], theirs[1]),
        "were not split together": (ours[0], again[1]),
        "share 1 of 3 and share 2 of 3 were not split together": (ours[0], more[1], more[2]),
        "are both share 1; give one": (ours[0], ours[0]),
        "no shares": (),
    }
    for message, some in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            shares.join(some)
        assert clean(caught.value, *some)


def test_a_passphrase_is_needed_and_no_more():
    with_words, without = shares.split(SECRET, 2, 3, WORDS), shares.split(SECRET, 2, 3)
    assert shares.join(with_words[1:], WORDS) == SECRET
    assert all(one.passphrase for one in with_words)
    assert with_words[0]._reveal().iteration_exponent == 6  # 640,000 rounds
    with pytest.raises(ValueError, match="were split with a passphrase; give it"):
        shares.join(with_words)
    with pytest.raises(ValueError, match="have no passphrase; leave it away"):
        shares.join(without, WORDS)
    with pytest.raises(WrongKey, match="the passphrase is not that of") as caught:
        shares.join(with_words, Passphrase("Correct horse"))
    assert clean(caught.value, *with_words)
    with pytest.raises(ValueError, match="printable ASCII"):
        shares.split(SECRET, 2, 3, Passphrase("Schlüssel"))


def test_a_forged_share_is_found_even_if_others_suffice():
    """Its checksum holds; only the others contradict it."""
    made = shares.split(SECRET, 2, 4)
    true = made[3]._reveal()
    forged = type(true)(**{**vars(true), "value": bytes([true.value[0] ^ 1]) + true.value[1:]})
    given = [*made[:3], shares.Share(forged, SECRET.id, 4, False)]
    assert shares.join(given[:3]) == SECRET
    for check in (shares.join, lambda given: shares.drill(given, SECRET)):
        with pytest.raises(Tampered, match=r"share 4 of 4 do not fit together") as caught:
            check(given)
        assert clean(caught.value, *made)


def test_shares_must_agree_though_each_combination_fits(monkeypatch):
    """As after 2**32 attempts at a forgery: here no digest is checked."""

    def unchecked(k, points):
        return shamir_mnemonic.shamir._interpolate(points, 255) if k > 1 else points[0].data

    monkeypatch.setattr(shamir_mnemonic.shamir, "_recover_secret", unchecked)
    made = shares.split(SECRET, 2, 3)
    true = made[0]._reveal()
    forged = type(true)(**{**vars(true), "value": true.value[:-1] + bytes([true.value[-1] ^ 1])})
    assert shares.join(made) == SECRET
    with pytest.raises(Tampered, match="do not fit together"):
        shares.join([shares.Share(forged, SECRET.id, 3, False), *made[1:]])


def test_a_changed_key_id_is_no_wrong_passphrase():
    made = [shares.Share(one._reveal(), "0" * 16, 3, False) for one in shares.split(SECRET, 2, 3)]
    with pytest.raises(Tampered, match="restore a key that is not 0000000000000000"):
        shares.join(made)


# The drill


def test_a_drill_tries_every_combination(monkeypatch):
    tried = []
    recover = shamir_mnemonic.recover_ems

    def spy(groups):
        tried.append(frozenset(share.index for share in groups[0]))
        return recover(groups)

    monkeypatch.setattr(shamir_mnemonic, "recover_ems", spy)
    made = shares.split(SECRET, 3, 5)
    assert shares.drill(made, SECRET) == (SECRET.id, 3, 10, 10)
    assert {*tried} == {*map(frozenset, itertools.combinations(range(5), 3))}
    assert len(tried) == 10
    tried.clear()
    many = shares.drill(shares.split(SECRET, 8, 16), SECRET.id)
    assert many.possible == 12870
    assert 900 < many.tried < 1010
    assert many.tried == len(tried) == len({*tried})
    assert frozenset.union(*tried) == {*range(16)}


def test_a_drill_gives_nothing_away_and_knows_the_key():
    made = shares.split(SECRET, 2, 3, WORDS)
    done = shares.drill(made, SECRET, WORDS)
    assert not shows(repr(done))
    with pytest.raises(WrongKey, match=f"shares of key {SECRET.id}, not of"):
        shares.drill(made, Secret(bytes(32)), WORDS)
    with pytest.raises(WrongKey, match=f"shares of key {SECRET.id}, not of 0"):
        shares.drill(made, "0" * 16, WORDS)
    with pytest.raises(ValueError, match="and 2 are needed"):
        shares.drill(made[:1], SECRET, WORDS)


def test_a_share_shows_nothing():
    (share, _) = shares.split(SECRET, 2, 2)
    assert repr(share) == f"Share(1 of 2, key={SECRET.id!r})" == f"{share}"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt(share)
    with pytest.raises(TypeError, match="__dict__"):
        vars(share)


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shares of a key, 2 of 3, with the key file beside."""
    folder = tmp_path_factory.mktemp("shares")
    keys.save(SECRET, folder / "a.key")
    share_files.save(shares.split(SECRET, 2, 3), folder / "s")
    return folder


def test_files_are_for_their_holder_alone(folder):
    assert sorted(os.listdir(folder)) == ["a.key", "s"]
    assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o700
    files = sorted((folder / "s").iterdir())
    assert [file.name for file in files] == [f"share-{i}-of-3.txt" for i in (1, 2, 3)]
    for i, file in enumerate(files, 1):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        content = file.read_text()
        assert not shows(content)
        for line in (f"Key: {SECRET.id}", f"Share: {i} of 3", "Needed: 2", "Passphrase: no"):
            assert f"\n{line}\n" in content
        assert max(map(len, content.splitlines())) < 90
        share = share_files.load(file)
        assert (share.index, share.count, share.threshold, share.passphrase) == (i, 3, 2, False)
        assert share.key_id == SECRET.id
        file.chmod(0o640)
        with pytest.raises(PermissionError, match="chmod 600"):
            share_files.load(file)
        file.chmod(0o600)


def test_a_print_may_be_typed_without_its_numbers(folder, tmp_path):
    content = (folder / "s" / "share-1-of-3.txt").read_text()
    head, words = content.split("Words:\n")
    plain = "\r\n".join(re.findall("[a-z]+", words))
    for typed in (
        head + "Words:\n" + plain.upper(),
        head + "Words: " + re.sub(r"(\d) ", r"\1. ", words),
    ):
        path = write(tmp_path / "typed.txt", typed.encode())
        assert words_of(share_files.load(path)) == plain.replace("\r\n", " ")


def spoiled(content, number, change):
    """The text with the word of this number changed."""
    head, words = content.split("Words:")
    return head + "Words:" + re.sub(rf"(\b{number} )(\w+)", lambda m: m[1] + change(m[2]), words)


def test_one_wrong_word_is_always_found(folder, tmp_path):
    """At every place: another word of the list, a word that is none, a word left away."""
    content = (folder / "s" / "share-1-of-3.txt").read_text()
    held = share_files.load(folder / "s" / "share-1-of-3.txt")
    index, words = shamir_mnemonic.wordlist.WORD_INDEX_MAP, shamir_mnemonic.wordlist.WORDLIST
    for number in range(1, 34):
        cases = {
            "the checksum does not hold": lambda word: words[index[word] ^ 1],
            rf"no word of SLIP-39 stands at {number};": lambda word: word[:-1] + "q",
            "has 32 words and needs 33": lambda word: "",
        }
        for message, change in cases.items():
            path = write(tmp_path / "typed.txt", spoiled(content, number, change).encode())
            with pytest.raises(Tampered, match=message) as caught:
                share_files.load(path)
            assert str(caught.value).startswith(str(path))
            assert clean(caught.value, held)


WRONG = {
    "version 10": ("version 1", "version 10", Unreadable, "is no share file of version 1"),
    "key": ("Key: ", "Key: x", Tampered, "no proper line `Key:`"),
    "no key": ("Key: ", "Kye: ", Tampered, "no proper line `Key:`"),
    "twice": ("Needed: 2", "Needed: 2\nNeeded: 2", Tampered, "no proper line `Needed:`"),
    "index": ("Share: 1", "Share: 2", Tampered, "the words are of share 1, of which 2 are needed"),
    "threshold": ("Needed: 2", "Needed: 1", Tampered, "the words are of share 1"),
    "passphrase": ("Passphrase: no", "Passphrase: No", Tampered, "no proper line `Passphrase:`"),
    "no words": ("Words:", "Wrods:", Tampered, "has 0 words"),
    "long": ("Words:", "Words:" + " " * 9000, Unreadable, "is no share file"),
    "binary": ("modellock-jax share", "\udcff", Unreadable, "is no share file"),
}


@pytest.mark.parametrize(("old", "new", "error", "message"), WRONG.values(), ids=WRONG)
def test_a_changed_line_is_named(folder, tmp_path, old, new, error, message):
    content = (folder / "s" / "share-1-of-3.txt").read_text()
    assert content.count(old) == 1
    held = share_files.load(folder / "s" / "share-1-of-3.txt")
    path = tmp_path / "typed.txt"
    write(path, content.replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=re.escape(message)) as caught:
        share_files.load(path)
    assert clean(caught.value, held)


@pytest.mark.parametrize("step", ["pwrite", "fsync", "link", "rename"])
def test_a_failure_leaves_no_share(tmp_path, monkeypatch, step):
    """At the second of three shares, or at the end."""
    made, real, calls = shares.split(SECRET, 2, 3), getattr(os, step), []

    def fail(*args):
        calls.append(1)
        if step == "rename" or len(calls) == 2:
            raise OSError("no")
        return real(*args)

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no") as caught:
        share_files.save(made, tmp_path / "s")
    assert os.listdir(tmp_path) == []
    assert clean(caught.value, *made)


def test_a_killed_process_leaves_no_folder(tmp_path):
    """No cleaning up: the process ends when all is written and has no name yet."""
    script = (
        "import os, sys; from modellock_jax.vault import keys, share_files, shares\n"
        "os.rename = lambda *args: os._exit(9)\n"
        "share_files.save(shares.split(keys.generate(), 2, 3), sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")], check=False)
    assert done.returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".modellock-")
    assert stat.S_IMODE(left.stat().st_mode) == 0o700


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(
    start=st.integers(0, 900),
    length=st.integers(0, 20),
    patch=st.binary(max_size=9)
    | st.text("0123456789 of.:\r\nWordskyKe²", max_size=9).map(str.encode),
)
def test_any_damage_is_found_or_harmless(folder, start, length, patch):
    content = (folder / "s" / "share-1-of-3.txt").read_bytes()
    held = share_files.load(folder / "s" / "share-1-of-3.txt")
    path = write(folder / "hurt.txt", content[:start] + patch + content[start + length :])
    try:
        share = share_files.load(path)
    except (Tampered, Unreadable) as error:
        said = error
    else:
        said = None
        assert words_of(share) == words_of(held)
        assert (share.index, share.threshold) == (1, 2)
    path.unlink()
    assert said is None or clean(said, held)


def test_no_folder_is_overwritten(tmp_path):
    made = shares.split(SECRET, 2, 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "dangling", "full/a"):
        with pytest.raises(FileExistsError, match="exists and is no empty folder"):
            share_files.save(made, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="create it first"):
        share_files.save(made, tmp_path / "absent" / "s")
    (tmp_path / "empty").mkdir()
    assert shares.join(map(share_files.load, share_files.save(made, tmp_path / "empty"))) == SECRET
    assert sorted(os.listdir(tmp_path)) == ["dangling", "empty", "file", "full"]


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "shamir_mnemonic", None)
    with pytest.raises(ImportError, match=r'pip install "modellock-jax\[backup\]"'):
        shares.split(SECRET, 2, 3)


# The commands


def here(folder, monkeypatch):
    """Commands in this process, which costs less; gives their exit code and what they say."""

    def run(*words):
        told = io.StringIO()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["modellock-jax", *map(str, words)])
        with (
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return ended.value.code, told.getvalue()

    return run


def test_split_drill_and_join(tmp_path):
    """As processes of their own, where nobody asks for a passphrase."""
    keys.save(SECRET, tmp_path / "a.key")
    out = good(tmp_path, "backup", "split", "a.key", "s", "--threshold", 3, "--shares", 4).decode()
    assert "all 4 combinations of 3 restore it" in out
    files = sorted((tmp_path / "s").iterdir())
    drilled = good(tmp_path, "backup", "drill", *files, "--key", "a.key").decode()
    assert "all 4 combinations of 3 restore it" in drilled
    assert sorted(os.listdir(tmp_path)) == ["a.key", "s"]
    joined = good(tmp_path, "backup", "join", *files[:3], "b.key").decode()
    assert keys.load(tmp_path / "b.key") == SECRET
    assert stat.S_IMODE((tmp_path / "b.key").stat().st_mode) == 0o600
    held = [words_of(share_files.load(file)).split() for file in files]
    for shown in (out, drilled, joined):
        assert not shows(shown)
        assert not threes(re.findall("[a-z]+", shown)) & {*itertools.chain(*map(threes, held))}
    bad(2, "and 3 are needed", tmp_path, "backup", "join", *files[:2], "c.key")


def test_what_commands_refuse(folder, tmp_path, monkeypatch):
    run = here(tmp_path, monkeypatch)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    share_files.save(shares.split(SECRET, 2, 3), tmp_path / "later")
    one, two, three = sorted((tmp_path / "s").iterdir())
    for code, message, words in (
        (2, "a.key exists", ("join", one, two, "a.key")),
        (2, "were not split together", ("join", one, tmp_path / "later" / two.name, "c.key")),
        (2, "are both share 1", ("join", one, one, "c.key")),
        (2, "name the key", ("drill", one, two)),
        (2, "name the key", ("drill", one, two, "--key", "a.key", "--id", SECRET.id)),
        (3, "not of 0123456789abcdef", ("drill", one, two, "--id", "0123456789abcdef")),
        (2, "no empty folder", ("split", "a.key", "s")),
        (2, "4 of 3 shares", ("split", "a.key", "t", "--threshold", 4, "--shares", 3)),
        (6, "no key file absent.key", ("split", "absent.key", "t")),
        (6, "absent.txt", ("join", one, "absent.txt", "c.key")),
        (6, "a.key is no share file", ("join", one, "a.key", "c.key")),
    ):
        ended, said = run("backup", *words)
        assert (ended, said.count("\n")) == (code, 1), said
        assert message in said
    ended, said = run("backup", "drill", one, three, "--id", SECRET.id, "--json")
    assert ended == 0
    found = {"id": SECRET.id, "shares": 2, "threshold": 2, "combinations": 1, "possible": 1}
    assert json.loads(said) == found
    write(two, spoiled(two.read_text(), 20, lambda word: "zzz").encode())
    ended, said = run("backup", "drill", one, two, "--key", "a.key")
    assert (ended, "zzz" in said) == (4, False)
    assert f"{two}: no word of SLIP-39 stands at 20" in said
    assert sorted(os.listdir(tmp_path)) == ["a.key", "later", "s"]


def test_a_passphrase_from_the_environment(tmp_path, monkeypatch):
    run = here(tmp_path, monkeypatch)
    keys.save(SECRET, tmp_path / "a.key")
    split = ["backup", "split", "a.key", "s", "--threshold", 2, "--shares", 2, "--passphrase"]
    bad(2, "no passphrase", tmp_path, *split)
    monkeypatch.setenv("MODELLOCK_PASSPHRASE", "correct horse")
    assert run(*split)[0] == 0
    files = sorted((tmp_path / "s").iterdir())
    assert "and the passphrase are the key" in files[0].read_text()
    assert "correct" not in files[0].read_text()
    assert run("backup", "drill", *files, "--key", "a.key")[0] == 0
    monkeypatch.setenv("MODELLOCK_PASSPHRASE", "wrong")
    for words in (("drill", *files, "--key", "a.key"), ("join", *files, "b.key")):
        ended, said = run("backup", *words)
        assert ended == 3
        assert "the passphrase is not that of the shares" in said
    monkeypatch.setenv("MODELLOCK_PASSPHRASE", "correct horse")
    assert run("backup", "join", *files, "b.key")[0] == 0
    assert keys.load(tmp_path / "b.key") == SECRET
