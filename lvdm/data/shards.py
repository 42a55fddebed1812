"""Tar shards as WebDataset writes them: members of one key, up to the first dot of their name, are one sample.

`0001.mp4 0001.txt 0001.cls`, or `0001.000.jpg 0001.001.jpg 0001.json`. The headers of a shard are read once and its offsets
kept, so that any sample is read by itself: order, workers and restarts are those of a folder of files.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lvdm.data.folders import Description, Video, fill
from lvdm.data.notebook import Notebook
from lvdm.data.places import Place, Slice, is_image, is_video, natural_key, stamp
from lvdm.types import UserError

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
        files = sorted(root.glob(self.shards))
        if not files:
            raise UserError(f"no shards {self.shards} under {root}; expected tar files as WebDataset writes them")
        notebook, samples = Notebook(root), []
        for file in tqdm(files, desc="indexing shards", unit="shard", delay=2.0, mininterval=1.0, leave=False):
            name, when = file.relative_to(root).as_posix(), stamp(file)
            key = f"{name}?{self.caption}&{self.label}"
            if (index := notebook.get(key, when)) is None:
                notebook.add(key, when, index := self._index(file))
            samples += [(f"{name}/{sample}", _place(file, slices), caption, label) for sample, slices, caption, label in index]
        notebook.save()
        if not samples:
            raise UserError(f"none of the {len(files)} shards under {root} holds a video file or images")
        known = fill([Description(caption, label) for *_, caption, label in samples])
        return [Video(name, place, each) for (name, place, *_), each in zip(samples, known, strict=True)]

    def _index(self, shard: Path) -> list[list[Any]]:
        """[key, slices as [name, start, size], caption, label] of each sample."""
        samples: dict[str, list[Slice]] = {}
        for member in _members(shard):
            if match := KEY.fullmatch(member.name):
                samples.setdefault(match[1], []).append(member)
        index = []
        for key, members in samples.items():
            chosen = _frames_of(members)
            if chosen:
                known = self._describe(key, members)
                index.append([key, [[each.name, each.start, each.size] for each in chosen], known.caption, known.label])
        return index

    def _describe(self, key: str, members: Sequence[Slice]) -> Description:
        by_suffix = {member.name[len(key) + 1 :].lower(): member for member in members}
        try:
            found = json.loads(by_suffix["json"].read()) if "json" in by_suffix else {}
            caption = by_suffix["txt"].read().decode().strip() if "txt" in by_suffix else found.get(self.caption)
            label = int(by_suffix["cls"].read()) if "cls" in by_suffix else found.get(self.label)
        except (ValueError, AttributeError) as error:
            raise UserError(f"the txt, cls or json of sample {key} in {members[0].shard} is damaged: {error}") from error
        if not isinstance(caption, str | None) or not isinstance(label, int | None):
            what = f"caption {caption!r} and label {label!r}"
            raise UserError(f"sample {key} in {members[0].shard} has {what}; expected text and an integer class from 0")
        return Description(caption, label)


def _members(shard: Path) -> list[Slice]:
    try:
        with tarfile.open(shard, "r:") as tar:
            return [Slice(shard, member.name, member.offset_data, member.size) for member in tar if member.isfile()]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"cannot read the shard {shard}: {error}; expected an uncompressed tar; mend or remove it") from error


def _frames_of(members: Sequence[Slice]) -> list[Slice]:
    """The video file of a sample, else its images in natural order."""
    videos = [member for member in members if is_video(Path(member.name).name)]
    images = [member for member in members if is_image(Path(member.name).name)]
    return videos[:1] or sorted(images, key=lambda member: natural_key(member.name))


def _place(shard: Path, slices: Sequence[Sequence[Any]]) -> Place:
    found = tuple(Slice(shard, *each) for each in slices)
    return found[0] if len(found) == 1 and is_video(Path(found[0].name).name) else found
