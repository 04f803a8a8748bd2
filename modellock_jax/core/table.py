"""Tables of records by name: the package's own, those registered, and those of installed packages."""

import functools
import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Table"]


class _Named(Protocol):
    """What a table holds: a record with a `name`."""

    @property
    def name(self) -> str:
        """The name by which the table finds it."""


_Record = TypeVar("_Record", bound=_Named)


class Table(Mapping[str, _Record], Generic[_Record]):
    """Records by name, imported when they are first asked for.

    `what`: a record in words, "lock"; `kind`: its class; `own`: the package's records by name, each
    itself or as `module:attribute`; `group`: the entry points under which installed packages announce
    theirs, as in `[project.entry-points."modellock_jax.locks"]` `my_lock = "my_package:SCHEME"`.

    Asked for a name of `own`, it looks at no other package.

    Raises:
        KeyError: For a name that is not there.
        ValueError: Where a record of another package has a name that is taken or cannot be loaded.
    """

    def __init__(
        self, what: str, kind: type[_Record], own: Mapping[str, str | _Record], group: str
    ) -> None:
        self._what, self._kind, self._own, self._group = what, kind, own, group
        self._registered: dict[str, _Record] = {}
        self._load = functools.cache(self._loaded)

    def register(self, record: _Record) -> None:
        """Add a record for the life of this process; a package announces its own by entry points.

        Args:
            record: Of the table's class, with a name of its own.

        Raises:
            TypeError: For what is no record.
            ValueError: If the name is taken, unless by the same definition, run again as in a notebook.
        """
        if not isinstance(record, self._kind):
            raise TypeError(
                f"register a {self._kind.__name__}, not {type(record).__name__}: {record!r}"
            )
        before = self._registered.get(record.name)
        is_again = before is not None and _origin(before) == _origin(record)
        if record.name in self and not is_again:
            raise ValueError(
                f"the {self._what} {record.name!r} is there already; choose another name"
            )
        self._registered[record.name] = record

    def __getitem__(self, name: str) -> _Record:
        if name in self._own:
            own = self._own[name]
            return self._load(name, own) if isinstance(own, str) else own
        if name in self._registered:
            return self._registered[name]
        found = self._announced()[name]
        return self._load(name, found.value)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._own, *self._registered, *self._announced()])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered or name in self._announced()

    def _announced(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        # A package that is on the path twice is announced twice.
        for point in dict.fromkeys(entry_points(group=self._group)):
            if point.name in {*self._own, *self._registered, *found}:
                raise ValueError(
                    f"{_package(point)} announces a {self._what} {point.name!r}, and there is one "
                    "already; uninstall it, or have it choose another name"
                )
            found[point.name] = point
        return found

    def _loaded(self, name: str, value: str) -> _Record:
        module, _, attribute = value.partition(":")
        if name in self._own:
            own: _Record = getattr(importlib.import_module(module), attribute)
            return own
        point = self._announced()[name]
        try:
            record = point.load()
        except Exception as error:  # whatever another package raises
            raise ValueError(
                f"the {self._what} {name!r} of {_package(point)} cannot be loaded: "
                f"{type(error).__name__}: {error}; mend or uninstall that package"
            ) from error
        if not isinstance(record, self._kind) or record.name != name:
            raise ValueError(
                f"{_package(point)} announces a {self._what} {name!r}, but {value} is no "
                f"{self._kind.__name__} of that name"
            )
        return record


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist else f"the entry point {point.value}"


def _origin(record: Any) -> tuple[str, str]:
    function = getattr(record, "factory", record)
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(function))
