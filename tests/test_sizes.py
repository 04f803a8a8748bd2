"""Files under 300 lines and functions under 60, in the package and its tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file
    for folder in ("modellock_jax", "tests", "examples", "docs", "benchmarks", "native", ".ci")
    for file in (ROOT / folder).rglob("*.py")
)
LONGEST_FILE, LONGEST_FUNCTION = 300, 60  # lines, a function's docstring not counted


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    told = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - told * (first.end_lineno - first.lineno + 1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file):
    text = file.read_text()
    lengths = {
        node.name: lines_of(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    found = {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION}
    found |= {"the file": n} if (n := len(text.splitlines())) > LONGEST_FILE else {}
    assert not found, found
