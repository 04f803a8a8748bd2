"""Commands as processes of their own, with no key lying around and no terminal.

Run as a program, this file is the parent of such processes: it imports the command line once, which
takes half a second, and forks one for each line of its input, a JSON task; it answers with the exit
code.
"""

import atexit
import contextlib
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

MAIN = "import sys; sys.argv[0] = 'modellock-jax'; from modellock_jax.cli import main; main()"


class Ran(NamedTuple):
    code: int
    out: bytes
    told: str


def run(folder, *words, given=b"", fresh=False, closed=(), stdout="", setup="", **environment):
    """One command in a folder; in an interpreter of its own if `fresh`.

    `given`: comes through a pipe as its standard input; `closed`: of 0, 1 and 2, those that are;
    `stdout`: a file for it; `setup`: Python run in its process before, `None` in the environment: unset.
    """
    clean = _environment(folder, environment)
    words = list(map(str, words))
    if fresh:
        ran = _fresh(folder, words, given, clean)
    else:
        how = {"closed": list(closed), "stdout": str(stdout), "setup": setup}
        ran = _forked(folder, words, given, clean, how)
    assert "Traceback" not in ran.told
    return ran


def within(folder, *words, **environment):
    """As `run`, but in this process: faster, and what a process shares with others is not tried."""
    from modellock_jax.cli import run as running

    changed, before, argv = _environment(folder, environment), dict(os.environ), sys.argv
    out, told = io.StringIO(), io.StringIO()
    os.environ.clear()
    os.environ.update(changed)
    sys.argv = ["modellock-jax", *map(str, words)]
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out):  # noqa: SIM117
            with contextlib.redirect_stderr(told):
                code = running.command()
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.argv = argv
    return Ran(code, out.getvalue().encode(), told.getvalue())


def _environment(folder, given):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MODELLOCK_")}
    clean |= {"XDG_CONFIG_HOME": str(folder / "config"), **given}
    return {k: v for k, v in clean.items() if v is not None}


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


def _fresh(folder, words, given, environment):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        start_new_session=True, check=False,
        cwd=folder, input=given, capture_output=True, env=environment,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr.decode())


def _forked(folder, words, given, environment, how):
    parent = _parent()
    with tempfile.TemporaryDirectory() as files:
        task = {"words": words, "folder": str(folder), "environment": environment, "files": files}
        if given:
            os.mkfifo(os.path.join(files, "0"))
            threading.Thread(target=_feed, args=(os.path.join(files, "0"), given)).start()
        parent.stdin.write(json.dumps(task | how) + "\n")
        parent.stdin.flush()
        code = int(parent.stdout.readline())
        out = Path(how["stdout"] or os.path.join(files, "1"))
        return Ran(code, out.read_bytes() if out.is_file() else b"", Path(files, "2").read_text())


def _feed(path, given):
    with contextlib.suppress(BrokenPipeError), open(path, "wb", buffering=0) as pipe:
        pipe.write(given)


@functools.cache
def _parent():
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.communicate)  # which closes its input
    return process


def _serve():
    from modellock_jax.cli import main

    # What every command imports when it runs.
    sys.argv = ["modellock-jax", "verify", "nothing", "--key", "nothing"]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        main()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
            main()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(task):
    """The process that the command line would have started."""
    os.setsid()  # without a terminal that could be asked for a passphrase
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.argv = ["modellock-jax", *task["words"]]
    exec(task["setup"], {})
    given = os.path.join(task["files"], "0")
    os.dup2(os.open(given if os.path.exists(given) else os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        path = os.path.join(task["files"], str(number))
        if number == 1 and task["stdout"]:
            path = task["stdout"]
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    for number in task["closed"]:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python does then
    encoding = os.environ.get("PYTHONIOENCODING")
    if encoding and sys.stdout:
        sys.stdout.reconfigure(encoding=encoding)


if __name__ == "__main__":
    _serve()
