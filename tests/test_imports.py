"""Imports run one way, and importing the package is cheap."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "modellock_jax"
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
}
ROOMS = ("keys", "sealed", "locked", "issuing")
# What each part may import of the package, beside itself.
FILES = {"_atomic", "_gaps", "_printing", "_temporary"}
TOOLS = {"_flax_layers", "_progress", "data", "flax", "models", "tasks", "train"}
MAY = {
    "core": set(),
    "ciphers": set(),
    "locks": {"core", "ciphers"},
    **dict.fromkeys(FILES, FILES),
    "vault": {"core", "locks", "ciphers"} | FILES,
    "explain": {"locks", "vault"},
    **dict.fromkeys(TOOLS, {"core", "_printing"} | TOOLS),
    "attacks": {"core", "locks", "ciphers"} | TOOLS,
    "study": {"core", "locks", "attacks", "_atomic", ""} | TOOLS,
    "bench": {"core", "locks", "ciphers", "attacks", "study", ""} | TOOLS,
    "cli": {"study", "bench", "vault", "explain", ""} | FILES,
    "__main__": {"cli"},
    "": set(),
}


def part(module: str) -> str:
    """`modellock_jax.locks.sign` belongs to `locks`; the package itself to ``."""
    return [*module.split("."), ""][1].replace("__init__", "")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(file: Path, run: bool = False) -> set[str]:
    """Every module of the package that a file imports, in functions too; with `run`, none for types."""
    found = set()
    tree = ast.parse(file.read_text())
    if run:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "modellock_jax"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    own = part(module)
    reached = {part(name) for name in imported(MODULES[module])} - {own}
    assert reached <= MAY[own], f"{module} must not import {reached - MAY[own]}"


def test_every_part_has_its_place():
    assert {part(module) for module in MODULES} == set(MAY)


def test_no_module_imports_itself_in_a_circle():
    graph = {module: imported(file, run=True) & set(MODULES) for module, file in MODULES.items()}
    while leaves := [module for module, needs in graph.items() if not needs]:
        graph = {m: needs - set(leaves) for m, needs in graph.items() if m not in leaves}
    assert not graph


PROBE = """
import sys, time
import jax
start = time.perf_counter()
import modellock_jax
for name in modellock_jax.__all__:
    getattr(modellock_jax, name)
print(time.perf_counter() - start)
heavy = {"flax", "optax", "matplotlib", "scipy.stats", "tensorflow_datasets", "mlxtend", "sklearn"}
print(sorted(heavy & set(sys.modules)))
"""


def test_the_package_costs_less_than_a_second_beyond_jax():
    runs = [
        subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds, heavy = zip(*(run.stdout.splitlines() for run in runs))
    assert min(map(float, seconds)) < 1
    assert set(heavy) == {"[]"}


FILES = """
import io, sys
import modellock_jax.cli
from safetensors.numpy import save
from modellock_jax import vault
import numpy
key, locked, sealed = vault.generate_key(), io.BytesIO(), io.BytesIO()
vault.lock_file(save({"w": numpy.ones(8)}), locked, key, "stream_lock")
vault.unlock_file(locked.getvalue(), io.BytesIO(), key)
vault.seal({"w": numpy.ones(8)}, sealed, [vault.public_key(key)])
vault.load(sealed.getvalue(), key)
print("jax" in sys.modules)
"""


def test_who_only_keeps_files_need_not_wait_for_jax():
    run = subprocess.run([sys.executable, "-c", FILES], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize("package", ["vault", *(f"vault.{name}" for name in ROOMS)])
def test_every_name_of_the_vault_is_there_and_told(package):
    module = importlib.import_module(f"modellock_jax.{package}")
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__


def test_every_public_name_is_there():
    import modellock_jax as ml

    assert set(ml.__all__) <= set(dir(ml))
    with pytest.raises(AttributeError, match="No modellock_jax attribute deep_log"):
        _ = ml.deep_log
