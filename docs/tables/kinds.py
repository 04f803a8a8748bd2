"""The fields of rows, as their types say."""

import inspect
import types
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

from rows import Results, markdown

from modellock_jax.study.rows import TaskFields
from modellock_jax.study.table import STUDIES


def shown(wanted: Any) -> str:
    """Say a type in words."""
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Annotated:
        return shown(args[0])
    if isinstance(wanted, types.UnionType):
        return " or ".join(map(shown, args))
    if origin is list:
        return f"list of {shown(args[0])}"
    if origin is dict:
        return f"{shown(args[1])}, by name"
    names = {str: "text", int: "int", float: "float", bool: "bool", types.NoneType: "null"}
    return "fields below" if is_typeddict(wanted) else names[wanted]


def fields(schema: Any, within: str = "") -> list[list[str]]:
    """List each field, and those within it."""
    lines = []
    for name, hint in get_type_hints(schema, include_extras=True).items():
        optional = name not in schema.__required_keys__
        if get_origin(hint) is not Annotated:
            hint = get_args(hint)[0] if optional else hint
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint, "")
        about = f"{notes[0]}{'; may be missing' if optional else ''}"
        lines.append([f"`{within}{name}`", shown(kind), about])
        if is_typeddict(kind):
            lines += fields(kind, f"{within}{name}.")
    return lines


def studies(results: Results) -> str:
    lines = [[f"`{name}`", study.about] for name, study in STUDIES.items()]
    return markdown(["study", "what it measures"], lines, 2)


def kinds(results: Results) -> str:
    parts = ["## `task`, where it is not classification"]
    parts.append(markdown(["field", "type", "what it holds"], fields(TaskFields, "task."), 3))
    for study in STUDIES.values():
        for kind, schema in study.kinds.items():
            about = (inspect.getdoc(schema) or "").splitlines()[0]
            lines = [
                line
                for line in fields(schema)
                if line[0].strip("`").split(".")[0] not in ("id", "kind", "task")
            ]
            parts.append(f"## `{kind}`, of the study `{study.name}`\n\n{about}")
            parts.append(markdown(["field", "type", "what it holds"], lines, 3))
    return "\n\n".join(parts)
