"""Captioned videos that a CSV or JSONL table lists; the folder itself is not searched."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lvdm.data.folders import Description, Video
from lvdm.types import ABSENT, UserError

Row = Mapping[str, Any]


class VideoTable:
    """The videos of a table, in its order.

    Args:
        file: CSV with a line of column names (`.tsv`: by tabs), or JSONL with one object a line.
        video: the column of the path below the root, or a pattern over columns such as `{page_dir}/{videoid}.mp4`.
        caption: the column of the text; null for none.
        label: the column of an integer class from 0; null for none.
    """

    def __init__(
        self, file: str | Path, *, video: str = "video", caption: str | None = "caption", label: str | None = None
    ) -> None:
        self.file, self.caption, self.label = Path(file).expanduser(), caption, label
        self.pattern = video if "{" in video else f"{{{video}}}"

    def find(self, root: Path) -> list[Video]:
        videos: dict[str, Video] = {}
        for number, row in _rows(self.file):
            where = f"line {number} of {self.file}"
            name = Path(self._filled_pattern(row, where)).as_posix()
            if name in videos:
                raise UserError(f"{where} gives {name} a second time; keep one of the lines")
            videos[name] = Video(name, root / name, self._describe(row, where))
        if not videos:
            raise UserError(f"{self.file} lists no videos; expected a line for each, below the names of the columns in CSV")
        return list(videos.values())

    def _filled_pattern(self, row: Row, where: str) -> str:
        columns = re.findall(r"{([^{}]*)}", self.pattern)
        return re.sub(r"{([^{}]*)}", "{}", self.pattern).format(*(str(_cell(row, column, where)) for column in columns))

    def _describe(self, row: Row, where: str) -> Description:
        """What a table has a column for, every video has: no caption is "", no class is ABSENT."""
        caption = None if self.caption is None else str(_cell(row, self.caption, where) or "")
        label = None if self.label is None else _class(_cell(row, self.label, where), where)
        return Description(caption, label)


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Each row with its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".jsonl", ".json"):
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _json_row(line, f"line {number} of {path}")
            else:
                reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
                for row in reader:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}; expected CSV or JSONL in UTF-8") from error


def _json_row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}); expected one object a line, or name the file .csv") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is {row!r}, expected an object")
    return row


def _cell(row: Row, column: str, where: str) -> Any:
    if column not in row:
        columns = ", ".join(str(name) for name in row if name is not None)
        raise UserError(f"{where} has no {column}; its columns are {columns}; name another one in video, caption or label")
    return row[column]


def _class(cell: Any, where: str) -> int:
    if cell is None or cell == "":
        return ABSENT
    text = str(cell).strip()
    if isinstance(cell, bool) or not text.isdigit():
        raise UserError(f"{where}: the label is {cell!r}, expected an integer class from 0")
    return int(text)
