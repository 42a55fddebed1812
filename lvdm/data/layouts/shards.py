"""Tar shards as WebDataset writes them: members of one key, up to the first dot of their name, are one sample.

`0001.mp4 0001.txt 0001.cls`, or `0001.000.jpg 0001.001.jpg 0001.json`. The headers of a shard are read once and its offsets
kept, so that any sample is read by itself: order, workers and restarts are those of a folder of files.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lvdm.data.layouts.listing import Description, Video, fill
from lvdm.data.limits import MAX_NOTE, as_text, is_text, name_problem, printable, require_file, text_problem
from lvdm.data.probing.probe_cache import Notebook
from lvdm.data.reading.locations import Place, Slice, is_image, is_video, natural_key, stamp
from lvdm.types import UserError

TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, LookupError, OverflowError, RecursionError, MemoryError)
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # WebDataset's: the suffix starts at the first dot of the last part


class TarShards:
    """Every sample of every shard that has a video file, or images, which are the frames of one video.

    A caption is the sample's txt, or the `caption` of its json; a class its cls, or the `label` of its json.

    Args:
        shards: pattern of the shards below the root; plain tar, for a compressed one cannot be read in the middle.
        caption, label: keys of the json.
    """

    def __init__(self, shards: str = "**/*.tar", *, caption: str = "caption", label: str = "label") -> None:
        self.shards, self.caption, self.label = shards, caption, label

    def find(self, root: Path) -> list[Video]:
        files = self._files(root)
        if not files:
            raise UserError(f"no shards {self.shards} under {root}; expected tar files as WebDataset writes them")
        notebook, samples = Notebook(root), []
        for file in tqdm(files, desc="indexing shards", unit="shard", delay=2.0, mininterval=1.0, leave=False):
            name, when = as_text(file.relative_to(root).as_posix()), _stamp(file)
            key = f"{name}?{self.caption}&{self.label}"
            if not _is_index(index := notebook.get(key, when)):
                notebook.add(key, when, index := self._index(file))
            samples += [(f"{name}/{sample}", _place(file, slices), Description(*known)) for sample, slices, known in index]
        notebook.save()
        if not samples:
            raise UserError(f"none of the {len(files)} shards under {root} holds a video file or images")
        known = fill([description for *_, description in samples])
        return [Video(name, place, each) for (name, place, _), each in zip(samples, known, strict=True)]

    def _files(self, root: Path) -> list[Path]:
        """The shards below root, each real file once."""
        try:
            found = sorted(root.glob(self.shards), key=lambda file: (file.is_symlink(), file))
        except (ValueError, NotImplementedError, IndexError, re.error) as error:
            raise UserError(f"shards is {self.shards!r}, which is no pattern of files below the root ({error})") from error
        if ".." in Path(self.shards).parts:
            raise UserError(f"shards is {self.shards!r}, which leads out of the root; make the folder above the root")
        return sorted({os.path.realpath(file): file for file in reversed(found)}.values())

    def _index(self, shard: Path) -> list[list[Any]]:
        """[key, slices as [name, start, size], [caption, label, problem]] of each sample."""
        samples: dict[str, list[Slice]] = {}
        problems: dict[str, str] = {}
        names: set[str] = set()
        for member, problem in _members(shard):
            if match := KEY.fullmatch(member.name):
                key = match[1]
                if member.name in names:
                    problem = "two members of the shard have one name"
                names.add(member.name)
                samples.setdefault(key, []).append(member)
                if problem is not None:
                    problems.setdefault(key, problem)
        index = []
        for key, members in samples.items():
            chosen = _frames_of(members)
            if chosen:
                known = Description(problem=problems[key]) if key in problems else self._describe(key, members)
                slices = [[each.name, each.start, each.size] for each in chosen]
                index.append([key, slices, [known.caption, known.label, known.problem]])
        return index

    def _describe(self, key: str, members: Sequence[Slice]) -> Description:
        by_suffix = {member.name[len(key) + 1 :].lower(): member for member in members}
        notes = {suffix: by_suffix[suffix] for suffix in ("json", "txt", "cls") if suffix in by_suffix}
        if any(note.size > MAX_NOTE for note in notes.values()):
            return Description(problem=f"its txt, cls or json has more than {MAX_NOTE:,} bytes")
        try:
            found = json.loads(notes["json"].read()) if "json" in notes else {}
            caption = notes["txt"].read().decode().strip() if "txt" in notes else found.get(self.caption)
            label = int(notes["cls"].read()) if "cls" in notes else found.get(self.label)
        except (ValueError, AttributeError, RecursionError) as error:
            return Description(problem=f"its txt, cls or json is damaged ({printable(str(error))[:100]})")
        if not isinstance(caption, str | None) or not isinstance(label, int | None) or isinstance(label, bool):
            what = f"caption {repr(caption)[:50]} and label {repr(label)[:50]}"
            return Description(problem=f"it has {what}; expected text and an integer class from 0")
        problem = text_problem(caption, label)
        return Description(caption, label) if problem is None else Description(problem=problem)


def _stamp(shard: Path) -> list[int]:
    try:
        return stamp(shard)
    except OSError as error:
        raise UserError(f"cannot read the shard {printable(str(shard))}: {error.strerror}; mend or remove it") from error


def _members(shard: Path) -> Iterator[tuple[Slice, str | None]]:
    """What could be a file of a sample, and why it cannot be used."""
    try:
        require_file(shard)
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            end = 0
            for member in tar:
                if member.offset_data < end or member.size < 0 or (member.isreg() and member.offset_data + member.size > size):
                    raise tarfile.ReadError(f"a member declares {member.size} bytes from {member.offset_data}")
                end = member.offset_data
                if not member.isdir():
                    yield Slice(shard, as_text(member.name), member.offset_data, member.size), _problem(member)
    except UserError:
        raise
    except TAR_ERRORS as error:
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"cannot read the shard {printable(str(shard))}: {printable(what)}; expected an uncompressed tar; mend or remove it"
        ) from error


def _problem(member: tarfile.TarInfo) -> str | None:
    """Why the bytes of a member must not be taken for a video."""
    if member.issparse():
        return "it is a sparse member"
    if not member.isreg():
        return "it is a link or a special file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the shard"
    return name_problem(Path(member.name))


def _is_index(noted: object) -> bool:
    """Whether this is an index as `_index` makes it; the file of notes came with the data and may hold anything."""
    if not isinstance(noted, list) or not all(isinstance(each, list) and len(each) == 3 for each in noted):
        return False
    return all(isinstance(key, str) and _are_slices(slices) and _is_known(known) for key, slices, known in noted)


def _are_slices(noted: object) -> bool:
    if not isinstance(noted, list) or not noted or not all(isinstance(each, list) and len(each) == 3 for each in noted):
        return False
    return all(isinstance(name, str) and all(type(n) is int and 0 <= n < 2**60 for n in place) for name, *place in noted)


def _is_known(noted: object) -> bool:
    if not isinstance(noted, list) or len(noted) != 3:
        return False
    caption, label, problem = noted
    is_text_or_none = all(text is None or (isinstance(text, str) and is_text(text)) for text in (caption, problem))
    return is_text_or_none and (label is None or type(label) is int) and text_problem(caption, label) is None


def _frames_of(members: Sequence[Slice]) -> list[Slice]:
    """The video file of a sample, else its images in natural order."""
    videos = [member for member in members if is_video(Path(member.name).name)]
    images = [member for member in members if is_image(Path(member.name).name)]
    return videos[:1] or sorted(images, key=lambda member: natural_key(member.name))


def _place(shard: Path, slices: Sequence[Sequence[Any]]) -> Place:
    found = tuple(Slice(shard, *each) for each in slices)
    return found[0] if len(found) == 1 and is_video(Path(found[0].name).name) else found
