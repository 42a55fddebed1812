"""Registries: records by name. What ships and what a user's package adds stand in the same one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from lvdm.types import UserError


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """Return the name."""
        ...


Record = TypeVar("Record", bound=Named)


class Registry(dict[str, Record]):
    """Records by their names, in the order in which they were added.

    Args:
        kind: what one record is called in messages, such as "metric".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, record: Record) -> Record:
        """Add a record under its name and return it; a name that is taken by another record is refused.

        A record of a module that is loaded again replaces the one from before.
        """
        if _definition(self.get(record.name, record)) != _definition(record):
            raise UserError(f"there is already another {self.kind} called {record.name!r}; choose another name")
        self[record.name] = record
        return record

    def find(self, name: str, *others: str) -> Record:
        """Return the record of a name; the error about an unknown one suggests from all names and `others`."""
        if name not in self:
            raise UserError(f"there is no {self.kind} {name!r}; {hint(name, [*self, *others])}")
        return self[name]


def _definition(value: Any) -> Any:
    """Return a value with functions and classes by their names, because a module that is loaded again has new ones."""
    if isinstance(value, partial):
        return _definition((value.func, value.args, value.keywords))
    if hasattr(value, "__qualname__"):
        return value.__module__, value.__qualname__
    if is_dataclass(value):
        return _definition(type(value)), {field.name: _definition(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _definition(item) for key, item in value.items()}
    return [_definition(item) for item in value] if isinstance(value, (list, tuple)) else value


def hint(name: str, options: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest valid one, else all of them."""
    options = list(options)
    close = difflib.get_close_matches(name.lower(), options, n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of {'; '.join(options)}"
