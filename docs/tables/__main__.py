"""Write the tables of README and docs from the rows in `results/`.

python docs/tables            # rewrites every block between <!-- table: NAME --> and <!-- /table -->
python docs/tables --check    # changes nothing; exit code 1 and the names of blocks that differ
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import bases
import bugs
import curves
import files
import games
import kinds
import matrix
import single
import studies
from rows import ROOT, Results

BLOCK = re.compile(r"<!-- table: ([\w -]+) -->\n.*?<!-- /table -->", re.DOTALL)

TABLES: dict[str, Callable[[Results], str]] = {
    "main study": studies.main_study,
    "league": studies.league,
    "games": games.games,
    "sweep": studies.sweep,
    "matrix": matrix.matrix,
    "matrix locks": matrix.matrix_locks,
    "matrix cells": matrix.matrix_cells,
    "matrix control": matrix.matrix_control,
    "deep lock keys": studies.deep_lock_keys,
    "deep lock rates": studies.deep_lock_rates,
    "adv params steps": single.adv_params_steps,
    "one bit off": single.one_bit_off,
    "locks": single.locks,
    "attacks": single.attacks,
    "single attacks": single.single_attacks,
    "signs from weights": single.signs_from_weights,
    "sign curves": curves.sign_curves,
    "public base": bases.public_base,
    "first layers": single.first_layers,
    "evasion": single.evasion,
    "robustness": single.robustness,
    "speed": single.speed,
    "speed of files": files.speed,
    "locked in pieces": files.locking,
    "many users": files.users,
    "files under trial": files.trials,
    "planted bugs": bugs.planted,
    "kinds of rows": kinds.kinds,
    "studies": kinds.studies,
}


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def rewritten(text: str, results: Results) -> tuple[str, list[str]]:
    """Return the text with every block written anew, and the names of those that differed."""
    differ = []

    def block(match: re.Match[str]) -> str:
        name = match[1]
        new = f"<!-- table: {name} -->\n{TABLES[name](results)}\n<!-- /table -->"
        if new != match[0]:
            differ.append(name)
        return new

    return BLOCK.sub(block, text), differ


def main(check: bool = False) -> int:
    """Rewrite, or with `check` only compare; the exit code."""
    results, wrong = Results(), []
    for page in pages():
        text = page.read_text()
        new, differ = rewritten(text, results)
        wrong += [f"{page.relative_to(ROOT)}: {name}" for name in differ]
        if not check and new != text:
            page.write_text(new)
    print("\n".join(wrong) or "every table is as its rows say")
    return int(check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
