"""Every command on a folder."""

import json
import shutil

from helpers.commands import bad, good
from helpers.folders import SHARDS, contents, model


def test_commands(tmp_path):
    for i in (1, 2):
        model(tmp_path / f"m{i}", i)
    for who in ("alice", "bob", "owner"):
        good(tmp_path, "keygen", f"{who}.key", "--classic")
    to, sign = ["--to", "alice.key.pub"], ["--sign", "owner.key"]
    alice, owner = ["--key", "alice.key"], ["--signed-by", "owner.key.pub"]
    for i in (1, 2):
        named = ["--name", "net", "--serial", str(i)]
        told = good(tmp_path, "seal", f"m{i}", f"s{i}", *to, *sign, *named).decode()
        assert "hidden, and sealed too: .gitattributes" in told
        assert "logs/old" in told
        assert "sealed as bytes" in told
    good(tmp_path, "open", "s2", "back", *alice, *owner, "--expect", "net@2+")
    assert contents(tmp_path / "back") == contents(tmp_path / "m2")
    bad(4, "serial 1", tmp_path, "verify", "s1", *alice, *owner, "--expect", "net@2+")
    told = json.loads(good(tmp_path, "inspect", "s2", "--json"))
    assert (told["name"], told["serial"], told["files"]) == ("net", 2, 6)
    good(tmp_path, "recipients", "add", "s2", "--to", "bob.key.pub", *alice, *sign)
    assert len(good(tmp_path, "recipients", "list", "s2").splitlines()) == 2
    good(tmp_path, "verify", "s2", "--key", "bob.key", *owner)
    good(tmp_path, "expire", "s2", "2999-01-01", *alice, *sign)
    good(tmp_path, "rewrap", "s2", *to, *alice, *sign)
    bad(3, "not for this key", tmp_path, "verify", "s2", "--key", "bob.key")
    good(tmp_path, "rotate", "s2", "r", *to, *alice, *sign, "--serial", "3")
    good(tmp_path, "verify", "r", *alice, *owner, "--expect", "net@3")
    bad(2, "not empty", tmp_path, "open", "s2", "back", *alice)
    bad(2, "not empty", tmp_path, "seal", "m1", "back", *to)
    shutil.copy(tmp_path / "s1" / SHARDS[0], tmp_path / "r" / SHARDS[0])
    bad(4, SHARDS[0], tmp_path, "open", "r", "x", *alice)
    (tmp_path / "r" / SHARDS[0]).unlink()
    bad(4, "missing", tmp_path, "verify", "r", *alice)
    good(tmp_path, "lock", "m1", "l1", *alice)
    good(tmp_path, "unlock", "l1", "u1", *alice)
    assert contents(tmp_path / "u1") == contents(tmp_path / "m1")
    assert b"set of locked files" in good(tmp_path, "inspect", "l1")
    (tmp_path / "l1" / "config.json").write_text("{}")
    bad(4, "config.json", tmp_path, "unlock", "l1", "x", *alice)
    bad(6, "name a folder that was sealed", tmp_path, "open", "m1", "x", *alice)
    bad(6, "was locked", tmp_path, "unlock", "m1", "x", *alice)
    assert not (tmp_path / "x").exists()
