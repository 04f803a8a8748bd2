"""The command that makes a table, for its rows."""

import shlex
import sys
from pathlib import Path


def command() -> str:
    """The command line of this process: files by name, and not where results and models are kept."""
    words, given = [], iter(sys.argv[1:])
    for word in given:
        if word in ("--json", "--keep"):
            next(given, None)
        elif not word.startswith(("--json=", "--keep=")):
            words.append(Path(word).name if "/" in word else word)
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
