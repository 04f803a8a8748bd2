"""Types of rows: what a field holds, checked when a row is written and read aloud by the documents."""

import types
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

__all__ = ["Kind", "TaskFields", "Valued", "check"]


class Kind(TypedDict):
    """What every row has: `id`, by which it is found again, and its `kind`."""

    id: str
    kind: str


class TaskFields(TypedDict):
    """What a model is for, where that is not the classification of one input."""

    name: Annotated[str, "the task"]
    unit: Annotated[str, "of values; what is in % is a share in rows"]
    chance: Annotated[float, "what a model reaches that knows nothing, in that unit"]
    best: Annotated[float, "what one reaches that makes no error"]


class Valued(Kind):
    """A row with values in the unit of a task: accuracy, as shares, if it names none."""

    task: NotRequired[Annotated[TaskFields, "what the model is for"]]


def check(row: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Compare a row with the fields of its kind.

    Args:
        row: As JSON has it; its `kind` names the kind.
        kinds: The study's kinds, each a `TypedDict`, by name.

    Raises:
        TypeError: Names the row and the field.

    >>> class Weight(Kind):
    ...     grams: float
    >>> check({"id": "a", "kind": "weight", "grams": 2}, {"weight": Weight})
    >>> check({"id": "a", "kind": "weight", "grams": "2"}, {"weight": Weight})
    Traceback (most recent call last):
    TypeError: row 'a' of kind 'weight': grams is '2', not float
    """
    about = f"row {row.get('id')!r} of kind {row.get('kind')!r}"
    if row.get("kind") not in kinds:
        raise TypeError(f"{about}: the kinds are {', '.join(kinds)}")
    schema: Any = kinds[row["kind"]]
    fields = get_type_hints(schema)
    missing, unknown = schema.__required_keys__ - row.keys(), row.keys() - fields.keys()
    if missing or unknown:
        raise TypeError(f"{about}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    for name, value in row.items():
        if not _fits(value, fields[name]):
            wanted = getattr(fields[name], "__name__", fields[name])
            raise TypeError(f"{about}: {name} is {value!r}, not {wanted}")


def _fits(value: Any, wanted: Any) -> bool:
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is list:
        return isinstance(value, (list, tuple)) and all(_fits(one, args[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items()
        )
    if is_typeddict(wanted):
        hints = get_type_hints(wanted)
        return (
            isinstance(value, dict)
            and wanted.__required_keys__ <= value.keys() <= hints.keys()
            and all(_fits(one, hints[name]) for name, one in value.items())
        )
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    # JSON writes 1.0 and 1 alike in many languages.
    return isinstance(value, (int, float) if wanted is float else wanted)
