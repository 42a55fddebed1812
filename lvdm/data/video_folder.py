"""Clips of the videos of a folder, as items of batches: `video` (3, t, h, w) in [-1, 1], `index`, `fps`, `caption`, `label`.

Which clip is drawn, where it is cropped and whether it is mirrored is a function of (seed, epoch, sample) alone. A video that
cannot be read, or is too short, is skipped. If that shows only in reading, every process draws the same other one instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lvdm.data.clips import all_clips, count_clips, random_clip, spread_clip, uniform_integer
from lvdm.data.frames import as_size, covering_size, crop, flip_half, random_position, resize_to_cover, to_float
from lvdm.data.layouts.folders import AnyVideos, Layout
from lvdm.data.layouts.listing import fingerprint
from lvdm.data.layouts.splits import Split
from lvdm.data.limits import MAX_READ, require_memory
from lvdm.data.loading import Draw, as_draw
from lvdm.data.probing.usable import UsableVideos, find_usable
from lvdm.data.reading.options import Reader, ReadingOptions
from lvdm.data.reading.readers import HeldVideo
from lvdm.rules import integer, require
from lvdm.seeding import clip_generator
from lvdm.types import ABSENT, UserError

AT_ONCE = 128  # frames decoded before they are resized


class VideoFolder(Dataset[dict[str, Any]]):
    """Clips of the videos below `root`.

    Args:
        root: the folder of the data set.
        num_frames: frames of a clip.
        size: the side of the square frames, or [height, width].
        stride: take every stride-th frame; the `fps` passed to the network is the video's divided by it.
        layout: how the data set lies in root; left out, `AnyVideos`: every mp4, avi, webm, mkv, mov, gif and folder of images.
        split: which of its videos; left out, all.
        random_clip: clips start anywhere; if false they are spread evenly over the video (a single one is centred).
        clips_per_video: samples of each video in an epoch, so that few videos make a long epoch; "all": as many as there are
            clips after one another in it, and with random_clip: false exactly those.
        resize: frames are resized to cover this side or [height, width], then cropped; left out, they just cover `size`.
        random_crop: crop anywhere, all frames of a clip alike; if false at the centre.
        flip: mirror half of the clips left to right.
        antialias: smooth before making frames smaller, as PIL does and OpenCV does not.
        in_memory: hold each video's resized frames in memory once they were read (each worker process its own).
        seed: of the random clips, crops and flips.
        metadata: JSONL of captions and classes; left out, `metadata.jsonl` in root is read if it exists.
        max_broken: the fraction of the videos that may be broken or too short before that is an error.
        reading: how frames are read, such as the rate that all videos are resampled to.
        image_fps, time_limit: these two options of `reading`, if they are all that it needs.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        num_frames: int,
        size: int | Sequence[int],
        stride: int = 1,
        layout: Layout | None = None,
        split: Split | None = None,
        random_clip: bool = True,
        clips_per_video: int | Literal["all"] = 1,
        resize: int | Sequence[int] | None = None,
        random_crop: bool = False,
        flip: bool = False,
        antialias: bool = True,
        in_memory: bool = False,
        seed: int = 0,
        metadata: str | Path | None = None,
        max_broken: float = 0.2,
        reading: ReadingOptions | None = None,
        image_fps: float | None = None,
        time_limit: float | None = None,
    ) -> None:
        self.root, self.layout, self.split = Path(root).expanduser(), layout or AnyVideos(metadata), split
        self.num_frames, self.size, self.stride = num_frames, as_size(size), stride
        self.box = self.size if resize is None else as_size(resize)
        self.random_clip, self.clips_per_video, self.seed = random_clip, clips_per_video, seed
        self.random_crop, self.flip, self.antialias, self.in_memory = random_crop, flip, antialias, in_memory
        self.max_broken = max_broken
        self._held: dict[int, HeldVideo] = {}
        self._usable: UsableVideos | None = None
        given = {"image_fps": image_fps, "time_limit": time_limit}
        shortcuts = {name: value for name, value in given.items() if value is not None}
        self.reading = reading or ReadingOptions(**shortcuts)
        self._check()
        if layout is not None and metadata is not None:
            raise UserError("metadata has no effect with a layout; give it to lvdm.data.AnyVideos, or leave the layout out")
        if reading is not None and shortcuts:
            raise UserError(f"{' and '.join(shortcuts)} has no effect with reading; give it to lvdm.data.ReadingOptions")

    def _check(self) -> None:
        counts = {"num_frames": self.num_frames, "stride": self.stride, "clips_per_video": self.clips_per_video}
        require(integer(1, 10**6), **{name: count for name, count in counts.items() if count != "all"})
        if not 0 <= self.max_broken <= 1:
            raise UserError(f"max_broken is {self.max_broken}, expected a fraction from 0 to 1")
        if self.box[0] < self.size[0] or self.box[1] < self.size[1]:
            raise UserError(f"resize {self.box} is smaller than size {self.size}, which is cropped from it; raise resize")

    def prepare(self) -> None:
        """Look at the disk (constructing does not): find the videos, and probe each that is new or has changed."""
        if self._usable is not None:
            return
        self._usable = usable = find_usable(
            *(self.root, self.layout, self.split),
            num_frames=self.num_frames,
            stride=self.stride,
            max_broken=self.max_broken,
            reading=self.reading,
        )
        if self.clips_per_video == "all":
            self._ends = np.cumsum([count_clips(facts.num_frames, self.num_frames, self.stride) for facts in usable.facts])
        if self.in_memory:
            need = 0
            for facts in usable.facts:
                held = covering_size(facts.height, facts.width, self.box) if self.random_crop else self.size
                need += 3 * facts.num_frames * prod(held)
            require_memory(need, f"all videos of {self.root} at this size")

    @property
    def usable(self) -> UsableVideos:
        """The videos in root, with their facts, and the broken ones."""
        self.prepare()
        assert self._usable is not None
        return self._usable

    @property
    def names(self) -> list[str]:
        """The name below root of each usable video; an item's `index` counts here."""
        return [video.name for video in self.usable.videos]

    @property
    def labels(self) -> list[int]:
        """The class of each usable video, ABSENT for none."""
        return [ABSENT if video.description.label is None else video.description.label for video in self.usable.videos]

    @property
    def rates(self) -> list[float]:
        """The frames per second of items, of each video that states them."""
        return [facts.fps / self.stride for facts in self.usable.facts if facts.fps]

    def __len__(self) -> int:
        count = len(self.usable.videos)
        return int(self._ends[-1]) if self.clips_per_video == "all" else count * self.clips_per_video

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        draw = as_draw(key, len(self))
        sample = draw.index
        for attempt in itertools.count():  # ends: if too many videos are broken, report_broken raises
            rng = clip_generator(self.seed, draw.epoch, draw.index, attempt)
            if attempt > 0:
                sample = uniform_integer(len(self), rng)
            video, part, parts = self._locate(sample)
            if self.usable.videos[video].name in self.usable.broken:
                continue
            wanted = self._choose_frames(video, part, parts, rng)
            try:
                reader = self._open(video)
                frames = self._pixels(video, reader, wanted)
            except UserError as error:
                self.report_broken(video, error)
                continue
            frames = crop(frames, self.size, random_position(rng) if self.random_crop else None)
            return self._item(video, reader, flip_half(frames, rng) if self.flip else frames)
        raise AssertionError("not reached")

    def read(self, video: int) -> dict[str, Any]:
        """Return an item of a whole video at this stride; raise a UserError if it cannot be read."""
        reader = self._open(video)
        return self._item(video, reader, crop(self._pixels(video, reader, range(0, reader.num_frames, self.stride)), self.size))

    def report_broken(self, video: int, error: UserError) -> None:
        """Count, name and skip a video that could not be read; raise a UserError if there are too many."""
        self.usable.broken.add({self.usable.videos[video].name: str(error)})

    def record_skipped(self, file: Path) -> None:
        """Name every video that is skipped, now or later, in this file."""
        self.usable.broken.write_to(file)

    def fingerprint(self) -> str:
        """Return a hash of names and sizes of the files, captions, classes, and the view in which whole videos are seen."""
        listed = self.usable.listed
        seen = {"size": self.size, "stride": self.stride, "known": [video.description.as_batch() for video in listed]}
        further = {"resize": (self.box, self.size), "antialias": (self.antialias, True)}
        return fingerprint(listed, seen | {name: value for name, (value, default) in further.items() if value != default})

    def _locate(self, sample: int) -> tuple[int, int, int]:
        """Return the video of a sample, which of the video's samples it is, and of how many."""
        if self.clips_per_video != "all":
            count = len(self.usable.videos)
            return sample % count, sample // count, self.clips_per_video
        video = int(np.searchsorted(self._ends, sample, side="right"))
        first = int(self._ends[video - 1]) if video else 0
        return video, sample - first, int(self._ends[video]) - first

    def _choose_frames(self, video: int, part: int, parts: int, rng: torch.Generator) -> range:
        """Return the frames of a clip, by the length that the probe has shown, whichever library reads them."""
        clip = (self.usable.facts[video].num_frames, self.num_frames, self.stride)
        if self.random_clip:
            return random_clip(*clip, rng)
        return all_clips(*clip)[part] if self.clips_per_video == "all" else spread_clip(*clip, part, parts)

    def _open(self, video: int) -> Reader:
        """Return a reader of the video; with `in_memory`, of its resized frames."""
        if video in self._held:
            return self._held[video]
        reader = self.usable.videos[video].open()
        if not self.in_memory:
            return reader
        frames = self._pixels(video, reader, range(reader.num_frames)).numpy()
        return self._held.setdefault(video, HeldVideo(frames, reader.fps))

    def _pixels(self, video: int, reader: Reader, wanted: Sequence[int]) -> Tensor:
        """Return uint8 (t, h, w, c) that covers the size; resized in parts, because frames on disk may be far larger."""
        if isinstance(reader, HeldVideo):
            return torch.from_numpy(reader.read(wanted))
        facts = self.usable.facts[video]
        at_once = max(1, min(AT_ONCE, MAX_READ // (3 * facts.height * facts.width)))
        parts = (wanted[i : i + at_once] for i in range(0, len(wanted), at_once))
        resized = (resize_to_cover(torch.from_numpy(reader.read(part)), self.box, antialias=self.antialias) for part in parts)
        return torch.cat([frames if self.random_crop else crop(frames, self.size) for frames in resized])

    def _item(self, video: int, reader: Reader, frames: Tensor) -> dict[str, Any]:
        fps = torch.tensor(reader.fps / self.stride)
        return {"video": to_float(frames), "index": video, "fps": fps, **self.usable.videos[video].description.as_batch()}
