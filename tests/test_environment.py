"""Commands where something is missing: a stream, a letter, room, a home, a package, a terminal."""

import json
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from helpers.commands import bad, good, run
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a key, a plain file and a sealed one."""
    folder = tmp_path_factory.mktemp("files")
    good(folder, "keygen", "a.key")
    save_file({"w": np.arange(6.0)}, folder / "m")
    good(folder, "seal", "m", "m.sealed", "--to", "a.key.pub")
    return folder


KEY = ("--key", "a.key")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(folder, closed, tmp_path):
    """The work is done, and no file of it becomes a standard stream."""
    ran = run(folder, "open", "m.sealed", tmp_path / "x", *KEY, closed=closed)
    assert ran.code == 0
    assert (tmp_path / "x").read_bytes() == (folder / "m").read_bytes()
    assert run(folder, "verify", "absent", *KEY, closed=closed).code == 6


def test_a_stream_that_is_not_what_python_took_it_for(folder):
    """Its position cannot be told; whatever happens at the beginning is no traceback either."""
    setup = (
        "from modellock_jax.cli import streams\n"
        "def fails(): raise OSError(29, 'Illegal seek')\n"
        "streams.prepare = fails"
    )
    bad(2, "Illegal seek", folder, "verify", "m.sealed", *KEY, setup=setup)


def test_a_closed_stream_is_no_file(folder, tmp_path):
    ran = run(folder, "open", "m.sealed", "-", *KEY, closed=(1,))
    assert (ran.code, "standard output is closed" in ran.told) == (2, True)
    ran = run(folder, "verify", "-", *KEY, closed=(0,))
    assert (ran.code, "standard input is closed" in ran.told) == (2, True)


def test_the_exit_code_tells_of_the_work(folder, tmp_path):
    """Standard output is full: what was written is written, what was to be shown is not."""
    ran = run(folder, "open", "m.sealed", tmp_path / "x", *KEY, stdout="/dev/full")
    assert ran.code == 0
    assert "done, but" in ran.told
    assert (tmp_path / "x").read_bytes() == (folder / "m").read_bytes()
    for words in (("inspect", "m.sealed"), ("explain",), ("open", "m.sealed", "-", *KEY)):
        ran = run(folder, *words, stdout="/dev/full")
        assert ran.code == 2
        assert "No space left" in ran.told


def test_letters_that_a_stream_cannot_write(folder, tmp_path):
    name = tmp_path / "模型\udcff.sealed"
    name.write_bytes((folder / "m.sealed").read_bytes())
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}):
        ran = run(folder, "verify", name, *KEY, fresh=True, PYTHONUTF8="0", **environment)
        assert ran.code == 0, ran.told
        assert b"\\udcff" in ran.out
    ran = run(folder, "verify", name, *KEY, PYTHONIOENCODING="ascii")
    assert b"\\u6a21" in ran.out


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "x", "LINES": "-1"}, {"COLUMNS": "0"}, {"COLUMNS": "1"}, {"COLUMNS": "-7"},
        {"TERM": "", "NO_COLOR": ""}, {"TERM": "no such"}, {"FORCE_COLOR": "1", "COLUMNS": "3"},
        {"TERMINAL_WIDTH": "x"}, {"TTY_COMPATIBLE": "1", "COLUMNS": "2"},
        {"_MODELLOCK_JAX_COMPLETE": "nonsense"}, {"_MODELLOCK_JAX_COMPLETE": "complete_bash"},
    ],
    ids=str,
)  # fmt: skip
def test_odd_terminals(folder, environment):
    for words in (["--help"], ["verify", "m.sealed", *KEY], ["seal"]):
        assert run(folder, *words, **environment).code in (0, 1, 2)


def test_usage_is_one_sentence_whatever_was_typed(folder):
    bad(2, "see modellock-jax seal --help", folder, "seal")
    bad(2, "\\x1b]0;x\\x07", folder, "seal", "--\x1b]0;x\x07")
    bad(2, "nosuch\\n", folder, "nosuch\n")
    bad(6, "\\x1b[31m", folder, "open", "\x1b[31m\nerror: none", "x", *KEY)
    assert run(folder).code in (0, 2)


CATCHES = (
    "import signal, os\nfrom modellock_jax.vault.sealed import envelope\n"
    # Whoever runs the tests in the background ignores some, and a child would.
    "for one in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):\n"
    "    signal.signal(one, signal.SIG_DFL)\n"
)


@pytest.mark.parametrize("name", ["TERM", "HUP", "INT", "QUIT", "USR1", "ALRM", "XCPU", "ABRT"])
def test_a_signal_is_a_sentence_and_a_code(folder, name):
    number = getattr(signal, f"SIG{name}")
    setup = f"{CATCHES}envelope.seal = lambda *a, **k: os.kill(os.getpid(), {number}) or 1 / 0"
    ran = run(folder, "seal", "m", "x", "--to", "a.key.pub", setup=setup)
    assert ran.code == 128 + number
    assert ran.told.count("\n") == 1
    assert "run the same command again" in ran.told


def test_a_signal_that_is_ignored_stays_so(folder, tmp_path):
    """As under nohup, and for commands in the background of a script."""
    setup = (
        f"{CATCHES}signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "real = envelope.seal\n"
        "envelope.seal = lambda *a, **k: (os.kill(os.getpid(), signal.SIGHUP), real(*a, **k))"
    )
    good(folder, "seal", "m", tmp_path / "x", "--to", "a.key.pub", setup=setup)


def test_a_second_signal_while_the_first_unwinds_leaves_nothing(folder, tmp_path):
    setup = (
        f"{CATCHES}from modellock_jax import _temporary\n"
        "from modellock_jax.vault.sealed import _chunks\n"
        "def twice(*a, **k):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "_chunks.seal_all = twice"
    )
    ran = run(folder, "seal", "m", tmp_path / "x", "--to", "a.key.pub", setup=setup)
    assert ran.code == 130
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_a_destructor_is_not_lost(folder, tmp_path):
    setup = (
        f"{CATCHES}from modellock_jax.vault.sealed import _chunks\n"
        "class Odd:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "_chunks.seal_all = lambda *a, **k: Odd() and None"
    )
    ran = run(folder, "seal", "m", tmp_path / "x", "--to", "a.key.pub", setup=setup)
    assert ran.code == 143
    assert list(tmp_path.iterdir()) == []


def test_a_signal_after_the_file_is_written_does_not_undo_it(folder, tmp_path):
    setup = (
        f"{CATCHES}real = os.replace\n"
        "os.replace = lambda *a: (real(*a), os.kill(os.getpid(), signal.SIGTERM))"
    )
    good(folder, "seal", "m", tmp_path / "x", "--to", "a.key.pub", setup=setup)
    good(folder, "verify", tmp_path / "x", *KEY)


def test_what_nobody_expected_is_one_line_without_secrets(folder):
    setup = (
        "from modellock_jax.vault.sealed import envelope\n"
        "def fails(*a, **k):\n"
        "    secret = 'HUSH'\n"
        "    raise KeyError(secret)\n"
        "envelope.open = fails"
    )
    bad(2, "SECURITY.md", folder, "open", "m.sealed", "x", *KEY, setup=setup)
    told = run(folder, "open", "m.sealed", "x", *KEY, setup=setup).told
    assert "itself: KeyError at cli/inputs.py:" in told
    assert "HUSH" not in told
    deep = (
        "from modellock_jax.vault.sealed import envelope\n"
        "f = lambda *a, **k: f()\nenvelope.open = f"
    )
    bad(2, "RecursionError", folder, "open", "m.sealed", "x", *KEY, setup=deep)
    full = deep.replace("f = lambda *a, **k: f()", "def f(*a, **k): raise MemoryError")
    bad(2, "not enough memory", folder, "open", "m.sealed", "x", *KEY, setup=full)


@pytest.mark.parametrize("hidden", ["cryptography", "typer", "safetensors", "numpy"])
def test_a_missing_package_is_a_sentence(folder, tmp_path, hidden):
    (tmp_path / f"{hidden}.py").write_text(f"raise ModuleNotFoundError('gone', name='{hidden}')")
    ran = run(folder, "verify", "m.sealed", *KEY, fresh=True, PYTHONPATH=path_first(tmp_path))
    assert ran.code in ((0,) if hidden == "safetensors" else (2,)), ran.told
    assert ran.told.count("\n") <= 1


def test_an_old_cryptography_is_a_sentence(folder, tmp_path):
    (tmp_path / "cryptography").mkdir()
    (tmp_path / "cryptography" / "__init__.py").write_text("__version__ = '41.0'")
    ran = run(folder, "verify", "m.sealed", *KEY, fresh=True, PYTHONPATH=path_first(tmp_path))
    assert (ran.code, ran.told.count("\n")) == (2, 1)
    assert "older than this release needs" in ran.told


def path_first(folder):
    return f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"


def test_a_drawing_program_that_does_not_exist(tmp_path):
    program = "from modellock_jax.study import figures\nfigures.save_figures(None, {}, None, {})"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env=os.environ | {"MPLBACKEND": "nonsense", "MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_output_that_is_there_keeps_its_mode(folder, tmp_path):
    (tmp_path / "x").touch(0o600)
    good(folder, "open", "m.sealed", tmp_path / "x", *KEY, "--force")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600
    (tmp_path / "y.sealed").write_bytes((folder / "m.sealed").read_bytes())
    (tmp_path / "y.sealed").chmod(0o600)
    good(folder, "open", tmp_path / "y.sealed", tmp_path / "y", *KEY)
    assert stat.S_IMODE((tmp_path / "y").stat().st_mode) == 0o600


def test_json_is_one_line_of_ascii(folder, tmp_path):
    name = tmp_path / "a\x7f\x1b模"
    name.write_bytes((folder / "m.sealed").read_bytes())
    out = good(folder, "open", name, tmp_path / "b\x7f", *KEY, "--json")
    assert out.decode().isprintable() or out.endswith(b"\n")
    assert b"\x7f" not in out
    assert json.loads(out)["output"] == str(tmp_path / "b\x7f")


def test_doctor_finds_what_killed_commands_left(folder, tmp_path):
    (tmp_path / ".modellock-0123456789abcdef.tmp").touch()
    told = good(tmp_path, "doctor").decode()
    assert f"{tmp_path}/.modellock-0123456789abcdef.tmp; delete it" in told
