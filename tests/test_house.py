"""Every public module says what it gives, by `__all__`, and gives it."""

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "modellock_jax"
MODULES = {
    path: ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name == "__init__.py" or not path.name.startswith("_")
}
TEXTS = {path: path.read_text() for path in PACKAGE.rglob("*.py*") if path.suffix != ".pyc"}
# Its files share names that are not for users: formats, checks.
VAULT = PACKAGE / "vault"


def called(path: Path) -> str:
    """Name a module as an import does."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def defined(tree: ast.Module) -> set[str]:
    """List the names that a module defines at its top."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = itertools.chain(*map(ast.walk, targets))
            names |= {
                n.id for n in stored if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return names


def is_used_elsewhere(path: Path, name: str) -> bool:
    """Whether another module of the package imports a name, or takes it from its module."""
    imported = rf"\b{path.stem} import (\([^)]*|[^(\n]*)\b{name}\b|\b{path.stem}\.{name}\b"
    return any(re.search(imported, text) for other, text in TEXTS.items() if other != path)


def faults(path: Path, tree: ast.Module) -> set[str]:
    """List the public names that `__all__` leaves out, and those that it has and the module has not."""
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    public = {name for name in defined(tree) if not name.startswith("_")}
    if len(listed) != bool(public) and not (path.stem in ("__init__", "commands") and listed):
        return {"__all__"}
    names = set(*listed)
    handed_on = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
                 for alias in node.names}  # fmt: skip
    left_out = public - names
    if path.is_relative_to(VAULT):
        left_out = {name for name in left_out if not is_used_elsewhere(path, name)}
    return left_out | (names - public - handed_on)


@pytest.mark.parametrize("path", MODULES, ids=called)
def test_a_public_module_lists_what_it_gives(path):
    assert not faults(path, MODULES[path])


@pytest.mark.parametrize("path", MODULES, ids=called)
def test_what_is_listed_is_there(path):
    if path.name == "__main__.py":
        return
    module = importlib.import_module(called(path))
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name, None) is not None, name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(): ...", {"__all__"}),
        ("__all__ = ['f']\ndef f(): ...\ndef g(): ...", {"g"}),
        ("__all__ = ['f', 'g']\ndef f(): ...", {"g"}),
        ("__all__ = ['f']\ndef f(): ...\ndef _g(): ...", set()),
        ("A, B = 1, 2\n__all__ = ['A']", {"B"}),
    ],
)
def test_a_wrong_list_is_found(text, found):
    assert faults(PACKAGE / "new.py", ast.parse(text)) == found
