"""Words that the project does not use, and names that have a better one in the field."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("modellock_jax", "docs", "examples", "notebooks", "benchmarks", "results", ".ci")
WORDS = re.compile(r"\b([Hh]e|[Hh]is|[Hh]im(self)?)\b(?! et al| & )|\b[Ll]eav(e|es|ing) away\b")
NAMES = re.compile(r"_?(turn|turns|turned|settled|signed)(_.*)?")


def texts():
    """Yield the text files of the project, but its tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "*.md", *FOLDERS],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and b"\0" not in (data := (ROOT / name).read_bytes()):
            yield name, data.decode()


def test_people_are_they_and_things_are_omitted():
    found = {name: match.group() for name, text in texts() if (match := WORDS.search(text))}
    assert not found


@pytest.mark.parametrize(
    "text", ["what he holds", "His key", "leave it away, leaving away the bias"]
)
def test_such_words_would_be_found(text):
    assert WORDS.search(text)


def names(tree):
    """Yield what is defined, stored or taken as an argument anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


# In the vault and its commands something is signed by a signature.
@pytest.mark.parametrize(
    "room", ["attacks", "bench", "ciphers", "core", "locks", "models", "study"]
)
def test_names_are_the_fields(room):
    for path in (ROOT / "modellock_jax" / room).rglob("*.py"):
        found = {name for name in names(ast.parse(path.read_text())) if NAMES.fullmatch(name)}
        assert not found, path
