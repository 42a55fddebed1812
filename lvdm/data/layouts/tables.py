"""Captioned videos in a CSV or JSONL table; the folder itself is not searched."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lvdm.data.layouts.listing import Description, Video, video_at
from lvdm.data.limits import BAD_LABEL, MAX_LABEL, as_text, parse_json, path_problem, printable, require_list, text_problem
from lvdm.types import ABSENT, UserError

Row = Mapping[str, Any]
COLUMN = r"{([^{}]+)}"  # of a pattern


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
        if set(re.sub(COLUMN, "", self.pattern)) & set("{}"):
            raise UserError(f"video is {video!r}, expected a column or a pattern such as {{page_dir}}/{{videoid}}.mp4")

    def find(self, root: Path) -> list[Video]:
        videos: dict[str, Video] = {}
        for number, row in read_rows(self.file):
            where = f"line {number} of {self.file}"
            filled = re.sub(COLUMN, lambda column: str(_cell(row, column[1], where)), self.pattern)  # noqa: B023 (called here)
            name, description = Path(filled).as_posix(), self._describe(row, where)
            if as_text(name) in videos:
                raise UserError(f"{where} gives {printable(name)} a second time; keep one of the lines")
            if problem := description.problem or path_problem(root, name):
                description = Description(problem=f"{problem} (line {number} of {self.file.name})")
            video = video_at(root, name, description)
            videos[video.name] = video
        problems = [video.description.problem or "" for video in videos.values()]
        if self.label is not None and problems and all(problem.startswith(BAD_LABEL) for problem in problems):
            raise UserError(
                f"no label in column {self.label} of {self.file} is an integer class from 0: {problems[0]}; name another column"
            )
        if not videos:
            raise UserError(f"{self.file} lists no videos; expected a line for each, below the names of the columns in CSV")
        return list(videos.values())

    def _describe(self, row: Row, where: str) -> Description:
        """Return caption and class, if the table has a column for them: an empty caption is "", an empty class is ABSENT."""
        caption = None if self.caption is None else str(_cell(row, self.caption, where) or "")
        label = None if self.label is None else _class(_cell(row, self.label, where))
        problem = text_problem(caption, None if label == ABSENT else label)
        return Description(caption, label) if problem is None else Description(problem=problem)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the number of each line and its row, the values by column."""
    try:
        require_list(path)
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
    row = parse_json(line, where, "one object a line, or name the file .csv")
    if not isinstance(row, dict):
        raise UserError(f"{where} is {repr(row)[:100]}, expected an object")
    return row


def _cell(row: Row, column: str, where: str) -> Any:
    if column not in row:
        columns = ", ".join(str(name) for name in row if name is not None)
        raise UserError(f"{where} has no {column}; its columns are {columns}; name another one in video, caption or label")
    return row[column]


def _class(cell: Any) -> int:
    """Return the class of a cell; MAX_LABEL + 1, which no batch can hold, if it is not a class."""
    if cell is None or cell == "":
        return ABSENT
    text = str(cell).strip()
    is_class = text.isdecimal() and text.isascii() and len(text) < 20 and not isinstance(cell, bool)
    return int(text) if is_class else MAX_LABEL + 1
