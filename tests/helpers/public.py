"""What users call and construct: all that the modules' `__all__` name, but for the commands."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType

import modellock_jax


def modules() -> list[ModuleType]:
    """The package's modules that say what they give; of the commands the docstrings are `--help`."""
    names = [m.name for m in pkgutil.walk_packages(modellock_jax.__path__, "modellock_jax.")]
    found = [importlib.import_module(n) for n in names if ".cli" not in n]
    return [modellock_jax, *(module for module in found if hasattr(module, "__all__"))]


def functions() -> dict[str, Callable[..., object]]:
    """Every function and method that is reached, by the name of where it is written."""
    found: dict[str, Callable[..., object]] = {}
    waiting: list[object] = [
        getattr(module, name) for module in modules() for name in module.__all__
    ]
    while waiting:
        thing = waiting.pop()
        if not str(getattr(thing, "__module__", None) or getattr(thing, "__name__", "")).startswith(
            "modellock_jax"
        ):
            continue
        if inspect.isclass(thing):
            waiting += list(_methods(thing))
        elif inspect.isroutine(plain := inspect.unwrap(thing)):
            plain = getattr(plain, "__func__", plain)
            found[f"{plain.__module__}.{plain.__qualname__}"] = plain
    return found


def classes() -> dict[str, type]:
    """The classes that the packages give, but for errors and for what only a function makes."""
    packages = [module for module in modules() if hasattr(module, "__path__")]
    found = [getattr(module, name) for module in packages for name in module.__all__]
    return {
        f"{kind.__module__}.{kind.__qualname__}": kind
        for kind in found
        if inspect.isclass(kind)
        and kind.__module__.startswith("modellock_jax")
        and not issubclass(kind, Exception)
        and not re.search(r"; made by `(vault\.)?open", inspect.getdoc(kind) or "")
    }


def unnamed(kind: type) -> list[str]:
    """The fields that a class takes and its docstring does not name."""
    document = inspect.getdoc(kind) or ""
    fields = inspect.signature(kind).parameters
    return [
        name
        for name in fields
        if not re.search(rf"(`|^    \*{{0,2}}){name}\b", document, re.MULTILINE)
    ]


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
