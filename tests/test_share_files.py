"""Share files and the `backup` commands: what is in them, every damage, every exit code."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
import shamir_mnemonic
from helpers.commands import bad, good
from helpers.hidden import SECRET, shows, write
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shares import clean, threes, words_of

from modellock_jax.cli import main
from modellock_jax.vault.errors import Tampered, Unreadable
from modellock_jax.vault.keys import share_files, shares
from modellock_jax.vault.keys.secret import load_key, save_key


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shares of a key, 2 of 3, with the key file beside."""
    folder = tmp_path_factory.mktemp("shares")
    save_key(SECRET, folder / "a.key")
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
    """At every place: another word of the list, a word that is none, a word omitted."""
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
    "version 20": ("version 2", "version 20", Unreadable, "is no share file of version 2"),
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
        "import os, sys; from modellock_jax.vault.keys import generate_key, share_files, shares\n"
        "os.rename = lambda *args: os._exit(9)\n"
        "share_files.save(shares.split(generate_key(), 2, 3), sys.argv[1])"
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
    save_key(SECRET, tmp_path / "a.key")
    out = good(tmp_path, "backup", "split", "a.key", "s", "--threshold", 3, "--shares", 4).decode()
    assert "all 4 combinations of 3 restore it" in out
    files = sorted((tmp_path / "s").iterdir())
    drilled = good(tmp_path, "backup", "drill", *files, "--key", "a.key").decode()
    assert "all 4 combinations of 3 restore it" in drilled
    assert sorted(os.listdir(tmp_path)) == ["a.key", "s"]
    joined = good(tmp_path, "backup", "join", *files[:3], "b.key").decode()
    assert load_key(tmp_path / "b.key") == SECRET
    assert stat.S_IMODE((tmp_path / "b.key").stat().st_mode) == 0o600
    held = [words_of(share_files.load(file)).split() for file in files]
    for shown in (out, drilled, joined):
        assert not shows(shown)
        assert not threes(re.findall("[a-z]+", shown)) & {*itertools.chain(*map(threes, held))}
    bad(2, "and 3 are needed", tmp_path, "backup", "join", *files[:2], "c.key")


OTHER = "0123456789abcdef" * 2


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
        (3, f"not of {OTHER}", ("drill", one, two, "--id", OTHER)),
        (2, "no empty folder", ("split", "a.key", "s")),
        (2, "4 of 3 shares", ("split", "a.key", "t", "--threshold", 4, "--shares", 3)),
        (6, "no key file absent.key", ("split", "absent.key", "t")),
        (6, "absent.txt", ("join", one, "absent.txt", "c.key")),
        (6, "a.key is a secret key file and no share file", ("join", one, "a.key", "c.key")),
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
    save_key(SECRET, tmp_path / "a.key")
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
    assert load_key(tmp_path / "b.key") == SECRET
