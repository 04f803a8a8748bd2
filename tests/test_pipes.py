"""Models through pipes: of the plaintext nothing is written anywhere, and no shared memory is needed."""

import json
import os
import threading

import numpy as np
import pytest
from helpers.commands import bad, good, run
from safetensors.numpy import save

SECRET = bytes(range(1, 252)) * 20  # what must not be in any file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    plain = save({"w": np.frombuffer(SECRET * 500, np.uint8), "b": np.arange(3.0)})
    good(folder, "keygen", "a.key")
    (folder / "m").write_bytes(plain)
    good(folder, "seal", "m", "sealed", "--to", "a.key.pub", "--sign", "a.key")
    good(folder, "lock", "m", "locked", "--key", "a.key")
    return folder, plain


# Notes every file that is opened to be written, and what is written and mapped where.
WATCH = """
import os, stat, sys
out = os.open(NOTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def hook(event, args):
    if event != "open" or not isinstance(args[0], (str, bytes)):
        return
    if (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        os.write(out, f"open {args[0]}\\n".encode(errors="replace"))
sys.addaudithook(hook)
def watched(name):
    real = getattr(os, name)
    def call(file, data, *more):
        if stat.S_ISREG(os.fstat(file).st_mode) and MARK in bytes(data):
            os.write(out, b"plaintext\\n")
        return real(file, data, *more)
    setattr(os, name, call)
watched("write")
watched("pwrite")
"""


def watching(noted):
    return WATCH.replace("NOTED", repr(str(noted))).replace("MARK", repr(SECRET[:251]))


KEY = ("--key", "a.key")
THROUGH = {
    "seal": (("seal", "-", "-", "--to", "a.key.pub"), "m"),
    "seal and sign": (("seal", "-", "-", "--to", "a.key.pub", "--sign", "a.key"), "m"),
    "open": (("open", "-", "-", *KEY), "sealed"),
    "open, signed": (("open", "-", "-", *KEY, "--signed-by", "a.key.pub"), "sealed"),
    "verify": (("verify", "-", *KEY), "sealed"),
    "rotate": (("rotate", "-", "-", *KEY, "--to", "a.key.pub"), "sealed"),
    "rotate and sign": (
        ("rotate", "-", "-", *KEY, "--to", "a.key.pub", "--sign", "a.key"),
        "sealed",
    ),
    "lock": (("lock", "-", "-", *KEY), "m"),
    "unlock": (("unlock", "-", "-", *KEY), "locked"),
    "inspect": (("inspect", "-"), "m"),
    "inspect, sealed": (("inspect", "-"), "sealed"),
    "inspect, locked": (("inspect", "-"), "locked"),
    "recipients": (("recipients", "list", "-"), "sealed"),
}


def through(folder, name, tmp_path, **options):
    words, source = THROUGH[name]
    (tmp_path / "tmp").mkdir(exist_ok=True)
    noted = tmp_path / "noted"
    setup = watching(noted)
    given = (folder / source).read_bytes()
    out = good(folder, *words, given=given, setup=setup, TMPDIR=str(tmp_path / "tmp"), **options)
    return out, noted.read_text().splitlines()


@pytest.mark.parametrize("name", THROUGH)
def test_through_a_pipe_nothing_plain_is_written(made, name, tmp_path):
    folder, plain = made
    out, noted = through(folder, name, tmp_path)
    assert "plaintext" not in noted
    assert not [line for line in noted if "/dev/shm" in line]
    spooled = [line for line in noted if line.startswith(f"open {tmp_path / 'tmp'}")]
    # Only what is sealed already, or shall be but for its head, is ever copied.
    allowed = name.startswith(("open", "verify", "rotate", "recip")) or name == "seal and sign"
    assert bool(spooled) == allowed
    assert os.listdir(tmp_path / "tmp") == []
    if name.startswith(("open", "unlock")):
        assert out == plain
    elif not name.startswith(("verify", "inspect", "recip")):
        (tmp_path / "x").write_bytes(out)
        back = "unlock" if name == "lock" else "open"
        assert good(folder, back, tmp_path / "x", "-", *KEY) == plain


def test_what_is_not_sealed_is_not_copied(made, tmp_path):
    folder, plain = made
    noted = tmp_path / "noted"
    setup = watching(noted)
    for command in ("open", "rotate"):
        words = ("--to", "a.key.pub") if command == "rotate" else ()
        ran = run(folder, command, "-", "-", *KEY, *words, given=plain, setup=setup)
        assert ran.code == 6
        assert "not a file that modellock-jax sealed" in ran.told
    assert "plaintext" not in noted.read_text()


@pytest.mark.parametrize("command", ["open", "rotate"])
def test_a_changed_file_gives_a_pipe_nothing(command, made):
    """A fault in the last chunk is found before the first byte is written."""
    folder, _ = made
    data = bytearray((folder / "sealed").read_bytes())
    data[-1] ^= 1
    words = ("--to", "a.key.pub") if command == "rotate" else ()
    bad(4, "", folder, command, "-", "-", *KEY, *words, given=bytes(data))


def test_without_a_place_for_temporary_files(made, tmp_path):
    """What streams does not need one; what does says so."""
    folder, _ = made
    setup = (
        "import tempfile\n"
        "def none(*a, **k): raise FileNotFoundError(2, 'No usable temporary directory found')\n"
        "tempfile.TemporaryFile = tempfile.gettempdir = none"
    )
    for name in ("seal", "lock", "unlock", "inspect"):
        words, source = THROUGH[name]
        good(folder, *words, given=(folder / source).read_bytes(), setup=setup)
    ran = run(folder, *THROUGH["open"][0], given=(folder / "sealed").read_bytes(), setup=setup)
    assert (ran.code, ran.told.count("\n")) == (2, 1)
    assert "TMPDIR" in ran.told


@pytest.mark.parametrize("name", ["open", "unlock", "lock", "seal"])
def test_what_is_damaged_gives_nothing(made, name, tmp_path):
    folder, _ = made
    words, source = THROUGH[name]
    whole = (folder / source).read_bytes()
    for hurt in (whole[:-1], whole + b"x", whole[: len(whole) // 2]):
        ran = run(folder, *words, given=hurt)
        assert ran.code in (4, 6), ran.told
        if name != "seal":  # of which a reader has ciphertext that does not open
            assert ran.out == b""
        else:
            (tmp_path / "x").write_bytes(ran.out)
            assert run(folder, "open", tmp_path / "x", "-", *KEY).code in (4, 6)


def test_a_pipe_by_name(made, tmp_path):
    folder, plain = made
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name in ("seal", "open", "lock", "unlock", "inspect"):
        words, source = THROUGH[name]
        data = (folder / source).read_bytes()
        thread = threading.Thread(target=pipe.write_bytes, args=(data,))
        thread.start()
        out = tmp_path / name
        ends = [pipe if word == "-" else word for word in words[1:]]
        if name != "inspect":
            ends[1] = out
        good(folder, words[0], *ends)
        thread.join()
    assert (tmp_path / "open").read_bytes() == plain == (tmp_path / "unlock").read_bytes()
    assert (tmp_path / "open").stat().st_mode & 0o077 == 0  # nobody knows who could read the source


def test_whoever_reads_our_output_may_stop(made):
    folder, _ = made
    setup = (
        "import os, threading\n"
        "read, write = os.pipe()\n"
        "os.close(read)\n"
        "dup2 = os.dup2\n"
        "def instead(file, number, *a): return dup2(write if number == 1 else file, number)\n"
        "os.dup2 = instead\n"
    )
    for words, source in (
        THROUGH["open"],
        THROUGH["unlock"],
        THROUGH["inspect"],
        (("explain",), "m"),
    ):
        ran = run(folder, *words, given=(folder / source).read_bytes(), setup=setup)
        assert (ran.code, ran.told) == (141, "")
    ran = run(folder, "verify", "sealed", *KEY, setup=setup)
    assert ran.code == 0


def test_text_files_through_a_pipe(made):
    folder, _ = made
    told = json.loads(good(folder, "inspect", "a.key", "--json"))
    for name in ("a.key", "a.key.pub"):
        data = (folder / name).read_bytes()
        assert json.loads(good(folder, "inspect", "-", "--json", given=data))["id"] == told["id"]
    bad(6, "UTF-16", folder, "inspect", "-", given=(folder / "a.key").read_text().encode("utf-16"))
