"""Every public module says what it gives, by `__all__`."""

import ast
import itertools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "modellock_jax"
# Commands are run, and nobody imports them.
PUBLIC = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.is_relative_to(PACKAGE / "cli") and not path.name.startswith("_")
]
# Here a name without an underscore may be for the room alone, and one may be handed on.
SOME = ("study", "vault")


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


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_public_module_lists_what_it_gives(path):
    tree = ast.parse(path.read_text())
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    public = {name for name in defined(tree) if not name.startswith("_")}
    assert len(listed) == bool(public)
    names = set(*listed)
    if path.relative_to(PACKAGE).parts[0] in SOME:
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert names <= public | {alias.name for node in imports for alias in node.names}
    else:
        assert names == public
