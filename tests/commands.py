"""Commands as subprocesses, with no key lying around and no terminal."""

import os
import subprocess
import sys
from typing import NamedTuple

MAIN = "import sys; sys.argv[0] = 'modellock-jax'; from modellock_jax.cli import main; main()"


class Ran(NamedTuple):
    code: int
    out: bytes
    told: str


def run(folder, *words, given=b"", **environment):
    """One command in a folder, with no key lying around and no terminal."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MODELLOCK_")}
    clean |= {"XDG_CONFIG_HOME": str(folder / "config"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)],
        cwd=folder, input=given, capture_output=True, env=clean, check=False,
    )  # fmt: skip
    told = done.stderr.decode()
    assert "Traceback" not in told
    return Ran(done.returncode, done.stdout, told)


def good(folder, *words, **options):
    ran = run(folder, *words, **options)
    assert ran.code == 0, ran.told
    return ran.out


def bad(code, text, folder, *words, **options):
    """The command ends in `code` with one sentence, and nothing on standard output."""
    ran = run(folder, *words, **options)
    assert ran.code == code, ran.told
    assert text in ran.told
    assert ran.told.count("\n") == 1
    assert ran.out == b""
