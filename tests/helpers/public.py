"""What users call: the functions that the facades and the site's API pages reach."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

PAGES = Path(__file__).parents[2] / "docs" / "api"
ROOTS = [
    f"modellock_jax{name}"
    for name in (
        "", ".attacks", ".bench.ciphers", ".bench.costs", ".bench.forwards", ".bench.keys",
        ".bench.layers", ".bench.run", ".bench.timing", ".bench.training", ".ciphers.aes",
        ".ciphers.chacha", ".ciphers.native", ".ciphers.nonces", ".ciphers.wide", ".core.bits",
        ".core.shards", ".data", ".data.images", ".explain", ".flax", ".locks", ".models", ".study",
        ".study.evasion", ".study.figures", ".study.league_grids", ".study.main_grids",
        ".study.sweep_grids", ".study.terminal", ".tasks", ".train", ".vault",
    )
]  # fmt: skip


def modules() -> list[str]:
    """The facades, and the modules of the pages."""
    pages = "".join(page.read_text() for page in sorted(PAGES.glob("*.md")))
    return [*ROOTS, *re.findall(r"automodule:: (\S+)", pages)]


def functions() -> dict[str, Callable[..., object]]:
    """Every function and method that is reached, by the name of where it is written."""
    found: dict[str, Callable[..., object]] = {}
    seen: set[str] = set()
    waiting: list[object] = [importlib.import_module(name) for name in modules()]
    while waiting:
        thing = waiting.pop()
        if not str(getattr(thing, "__module__", None) or getattr(thing, "__name__", "")).startswith(
            "modellock_jax"
        ):
            continue
        if isinstance(thing, ModuleType):
            if thing.__name__ not in seen:
                seen.add(thing.__name__)
                waiting += [getattr(thing, name) for name in getattr(thing, "__all__", ())]
        elif inspect.isclass(thing):
            waiting += list(_methods(thing))
        elif inspect.isroutine(plain := inspect.unwrap(thing)):
            plain = getattr(plain, "__func__", plain)
            found[f"{plain.__module__}.{plain.__qualname__}"] = plain
    return found


def _methods(kind: type) -> Iterator[Callable[..., object]]:
    for name, value in vars(kind).items():
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        # `tree_flatten` and `tree_unflatten` are JAX's to call.
        if not name.startswith(("_", "tree_")) and inspect.isfunction(plain):
            yield plain


def missing(function: Callable[..., object]) -> list[str]:
    """Name what a function's docstring lacks: parameters, what it returns or yields, and errors."""
    document = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    parameters = [name for name in signature.parameters if name not in ("self", "cls")]
    listed = section(document, "Args")
    lacks = [
        f"Args: {name}"
        for name in parameters
        if not re.search(rf"^    \*{{0,2}}{name}:", listed, re.MULTILINE)
    ]
    gives = signature.return_annotation
    if gives not in (None, "None", "NoReturn") and not (
        section(document, "Returns") or section(document, "Yields")
    ):
        lacks.append("Returns")
    errors = section(document, "Raises")
    return lacks + [f"Raises: {name}" for name in sorted(_raised(function)) if name not in errors]


def _raised(function: Callable[..., object]) -> set[str]:
    """The errors that a function's own lines raise."""
    found: set[str] = set()
    waiting = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0].body  # type: ignore
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
        if not isinstance(node, ast.FunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return {name for name in found if name[0].isupper()}


def section(document: str, name: str) -> str:
    """The lines of a section of a docstring."""
    found = re.search(rf"^{name}:\n((?:    .*\n?|\n)+)", document, re.MULTILINE)
    return found[1] if found else ""
