"""Tar shards as WebDataset writes them: members of one key, up to the first dot of their name, are one sample.

`0001.mp4 0001.txt 0001.cls`, or `0001.000.jpg 0001.001.jpg 0001.json`. The headers of a shard are read once and its offsets
cached, so that any sample is read by itself: order, workers and restarts are those of a folder of files.
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
from lvdm.data.limits import MAX_LABEL, MAX_NOTE, as_text, is_text, name_problem, printable, require_file, text_problem
from lvdm.data.probing.probe_cache import ProbeCache
from lvdm.data.reading.locations import Location, TarMember, is_image, is_video, natural_key, stamp
from lvdm.rules import TEXT, Rule, integer, listed, optional, row
from lvdm.types import UserError

TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, LookupError, OverflowError, RecursionError, MemoryError)
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # WebDataset's: the suffix starts at the first dot of the last part

# The cached index of a shard came with the data and may hold anything.
PLACE, NOTE = integer(0, 2**60), Rule("text or null", lambda note: note is None or (isinstance(note, str) and is_text(note)))
MEMBERS = listed(row(TEXT, PLACE, PLACE), 1, 2**60)
INDEX = listed(row(TEXT, MEMBERS, row(NOTE, optional(integer(0, MAX_LABEL)), NOTE)), 0, 2**60)


class TarShards:
    """Every sample of every shard that has a video file, or images, which are the frames of one video.

    The caption is the sample's txt, or the `caption` of its json. The class is its cls, or the `label` of its json.

    Args:
        shards: pattern of the shards below the root; plain tar, because a compressed one cannot be read in the middle.
        caption, label: keys of the json.
    """

    def __init__(self, shards: str = "**/*.tar", *, caption: str = "caption", label: str = "label") -> None:
        self.shards, self.caption, self.label = shards, caption, label

    def find(self, root: Path) -> list[Video]:
        files = self._files(root)
        if not files:
            raise UserError(f"no shards {self.shards} under {root}; expected tar files as WebDataset writes them")
        cache, samples = ProbeCache(root), []
        for file in tqdm(files, desc="indexing shards", unit="shard", delay=2.0, mininterval=1.0, leave=False):
            name, stamped = as_text(file.relative_to(root).as_posix()), _stamp(file)
            key = f"{name}?{self.caption}&{self.label}"
            index: Any = cache.get(key, stamped)
            if not INDEX.holds(index):
                cache.add(key, stamped, index := self._index(file))
            samples += [(f"{name}/{sample}", _location(file, members), Description(*text)) for sample, members, text in index]
        cache.save()
        if not samples:
            raise UserError(f"none of the {len(files)} shards under {root} holds a video file or images")
        descriptions = fill([description for *_, description in samples])
        return [Video(name, location, each) for (name, location, _), each in zip(samples, descriptions, strict=True)]

    def _files(self, root: Path) -> list[Path]:
        """Return the shards below root, each real file once."""
        try:
            found = sorted(root.glob(self.shards), key=lambda file: (file.is_symlink(), file))
        except (ValueError, NotImplementedError, IndexError, re.error) as error:
            raise UserError(f"shards is {self.shards!r}, which is no pattern of files below the root ({error})") from error
        if ".." in Path(self.shards).parts:
            raise UserError(f"shards is {self.shards!r}, which leads out of the root; make the folder above the root")
        return sorted({os.path.realpath(file): file for file in reversed(found)}.values())

    def _index(self, shard: Path) -> list[list[Any]]:
        """Return [key, members as [name, start, size], [caption, label, problem]] of each sample."""
        samples: dict[str, list[TarMember]] = {}
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
                text = Description(problem=problems[key]) if key in problems else self._describe(key, members)
                frames = [[each.name, each.start, each.size] for each in chosen]
                index.append([key, frames, [text.caption, text.label, text.problem]])
        return index

    def _describe(self, key: str, members: Sequence[TarMember]) -> Description:
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


def _members(shard: Path) -> Iterator[tuple[TarMember, str | None]]:
    """Yield every member that may be a file of a sample, and why it cannot be used (None if it can)."""
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
                    yield TarMember(shard, as_text(member.name), member.offset_data, member.size), _problem(member)
    except UserError:
        raise
    except TAR_ERRORS as error:
        what = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(
            f"cannot read the shard {printable(str(shard))}: {printable(what)}; expected an uncompressed tar; mend or remove it"
        ) from error


def _problem(member: tarfile.TarInfo) -> str | None:
    """Return why the bytes of a member must not be read as a video; None if they may."""
    if member.issparse():
        return "it is a sparse member"
    if not member.isreg():
        return "it is a link or a special file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "its name leads out of the shard"
    return name_problem(Path(member.name))


def _frames_of(members: Sequence[TarMember]) -> list[TarMember]:
    """Return the video file of a sample, else its images in natural order."""
    videos = [member for member in members if is_video(Path(member.name).name)]
    images = [member for member in members if is_image(Path(member.name).name)]
    return videos[:1] or sorted(images, key=lambda member: natural_key(member.name))


def _location(shard: Path, members: Sequence[Sequence[Any]]) -> Location:
    files = tuple(TarMember(shard, *each) for each in members)
    return files[0] if len(files) == 1 and is_video(Path(files[0].name).name) else files
