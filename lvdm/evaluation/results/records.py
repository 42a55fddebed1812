"""Write frozen records to JSON files, whole or not at all, and read them back with every field checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from lvdm.files import why_not_written, write_whole
from lvdm.models.features.registry import hint
from lvdm.types import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


def write_content(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or not at all, and the folders above it; an error is one sentence."""
    write_contents([(Path(path), content)])


def write_contents(contents: Sequence[tuple[Path, str | bytes]]) -> None:
    """Write files, all of them or none, and the folders above them; the first one is there last."""

    def write(path: Path, content: str | bytes, *others: tuple[Path, str | bytes]) -> None:
        def write_all(new: Path) -> None:
            with new.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())  # before another one takes its place
            if others:  # while this one has its temporary name
                write(*others[0], *others[1:])

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, write_all)
        except OSError as error:
            raise UserError(f"cannot write {path}: {why_not_written(error)}; free space or choose another folder") from error

    write(*contents[0], *contents[1:])


def require_writable(path: str | Path) -> None:
    """Refuse a path now that `write_content` would refuse after hours of work; nothing is created."""
    path = Path(path).absolute()
    nearest = next(folder for folder in path.parents if folder.exists())
    if path.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "it is a folder" if path.is_dir() else f"{nearest} is a file" if nearest.is_file() else f"{nearest} is read-only"
        raise UserError(f"cannot write {path}: {why}; choose another place")


def read_whole(path: str | Path) -> str:
    """Return the text of a file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"cannot read {path}: {why}; correct the path") from error


def record(kind: type[Record], said: Any, where: str) -> Record:
    """Return the dataclass that plain data describe; lists become tuples. `where` begins the sentence about an error."""
    hints = get_type_hints(kind)
    if not isinstance(said, Mapping):
        raise UserError(f"{where} is {said!r}, expected the fields {', '.join(hints)}")
    if strange := [key for key in said if key not in hints]:
        raise UserError(f"{where} has a field {strange[0]}, which is unknown; {hint(str(strange[0]), hints)}")
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [key for key in needed if key not in said]:
        raise UserError(f"{where} lacks {' and '.join(missing)}; it was cut short or written by something else")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    for key, value in values.items():
        accepted = _plain_types(hints[key])
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
            raise UserError(f"{where}: {key} is {value!r}, expected {' or '.join(kind.__name__ for kind in accepted)}")
    return kind(**values)


def _plain_types(annotation: Any) -> tuple[type, ...]:
    """Return the types of a field: tuple[float, float] | None -> (tuple, NoneType); a float may be written as an integer."""
    parts = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    plain = [get_origin(part) or part for part in parts]
    return tuple(dict.fromkeys([*plain, *([int] if float in plain else [])]))
