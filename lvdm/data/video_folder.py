"""Clips of the videos of a folder, as batches want them: `video` (3, t, h, w) in [-1, 1], `index`, `fps`, `caption`, `label`.

Which clip is drawn, where it is cropped and whether it is mirrored is a function of (seed, epoch, sample) alone. A video that
cannot be read, or is too short, is skipped: where that shows only in reading, another is drawn in its place, the same for all.
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

from lvdm.data.clips import all_clips, count_clips, random_clip, spread_clip
from lvdm.data.frames import as_size, covering_size, crop, flip_half, random_place, resize_to_cover, to_float
from lvdm.data.layouts.folders import AnyVideos, Layout
from lvdm.data.layouts.listing import fingerprint
from lvdm.data.layouts.splits import Split
from lvdm.data.limits import MAX_READ
from lvdm.data.memory import require_memory
from lvdm.data.probing.probe import VideoFacts
from lvdm.data.probing.usable import Found, find_usable
from lvdm.data.reading.locations import label_of
from lvdm.data.reading.readers import TIME_LIMIT, HeldVideo, Reader, open_video
from lvdm.data.seeding import Draw, as_draw, draw_integer, generator
from lvdm.rules import integer, number, require
from lvdm.types import UserError

AT_ONCE = 128  # frames decoded before they are resized


class VideoFolder(Dataset[dict[str, Any]]):
    """Clips of the videos below `root`.

    Args:
        root: the folder of the data set.
        num_frames: frames of a clip.
        size: the side of the square frames, or [height, width].
        stride: take every stride-th frame; the `fps` told to the network is the video's divided by it.
        layout: how the data set lies in root; left out, `AnyVideos`: every mp4, avi, webm, mkv, mov, gif and folder of images.
        split: which of its videos; left out, all.
        random_clip: clips start anywhere; if false they are spread evenly over the video (a single one is centred).
        clips_per_video: how many samples of an epoch each video is, so that few videos make a long epoch; "all": as many as
            clips follow each other in it, and with random_clip: false just those.
        resize: frames are resized to cover this side or [height, width], then cropped; left out, they just cover `size`.
        random_crop: crop anywhere, all frames of a clip alike; if false at the centre.
        flip: mirror half of the clips left to right.
        antialias: smooth before making frames smaller, as PIL does and OpenCV does not.
        in_memory: hold each video's frames, resized, in memory once they were read (each worker process its own).
        seed: of the random clips, crops and flips.
        metadata: JSONL of captions and classes; left out, `metadata.jsonl` in root is read where it exists.
        image_fps: frames per second of folders of images, which do not say it themselves.
        max_broken: the fraction of the videos that may be broken or too short before that is an error.
        time_limit: seconds that it may take to open a video or to read a clip of it.
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
        image_fps: float = 25.0,
        max_broken: float = 0.2,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.root, self.layout, self.split = Path(root).expanduser(), layout or AnyVideos(metadata), split
        self.num_frames, self.size, self.stride = num_frames, as_size(size), stride
        self.box = self.size if resize is None else as_size(resize)
        self.random_clip, self.clips_per_video, self.seed = random_clip, clips_per_video, seed
        self.random_crop, self.flip, self.antialias, self.in_memory = random_crop, flip, antialias, in_memory
        self.image_fps, self.max_broken, self.time_limit = image_fps, max_broken, time_limit
        self._check(has_both=layout is not None and metadata is not None)
        self._held: dict[int, HeldVideo] = {}
        self._found: Found | None = None

    def _check(self, *, has_both: bool) -> None:
        counts = {"num_frames": self.num_frames, "stride": self.stride, "clips_per_video": self.clips_per_video}
        require(integer(1, 10**6), **{name: count for name, count in counts.items() if count != "all"})
        if not 0 <= self.max_broken <= 1:
            raise UserError(f"max_broken is {self.max_broken}, expected a fraction from 0 to 1")
        require(number(1e-3, 1e6), time_limit=self.time_limit, image_fps=self.image_fps)
        if self.box[0] < self.size[0] or self.box[1] < self.size[1]:
            raise UserError(f"resize {self.box} is smaller than size {self.size}, which is cropped from it; raise resize")
        if has_both:
            raise UserError("metadata has no effect with a layout; give it to lvdm.data.AnyVideos, or leave the layout out")

    def prepare(self) -> None:
        """Look at the disk (constructing does not): find the videos, and look once at each that is new or has changed."""
        if self._found is not None:
            return
        clip = {"num_frames": self.num_frames, "stride": self.stride}
        limits = {"max_broken": self.max_broken, "time_limit": self.time_limit}
        self._found = found = find_usable(self.root, self.layout, self.split, **clip, **limits)
        if self.clips_per_video == "all":
            self._ends = np.cumsum([count_clips(facts.frames, self.num_frames, self.stride) for facts in found.facts])
        if self.in_memory:
            need = sum(3 * facts.frames * prod(self._held_size(facts)) for facts in found.facts)
            require_memory(need, f"all videos of {self.root} at this size")

    @property
    def found(self) -> Found:
        """What lies in root."""
        self.prepare()
        assert self._found is not None
        return self._found

    @property
    def names(self) -> list[str]:
        """The name below root of each video that can be used; an item's `index` counts here."""
        return [video.name for video in self.found.videos]

    def __len__(self) -> int:
        count = len(self.found.videos)
        return int(self._ends[-1]) if self.clips_per_video == "all" else count * self.clips_per_video

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        draw = as_draw(key, len(self))
        sample = draw.index
        for attempt in itertools.count():  # ends: when too many videos are broken, BrokenCount raises
            rng = generator(self.seed, draw.epoch, draw.index, attempt)
            if attempt > 0:
                sample = draw_integer(len(self), rng)
            item = self._try_clip(*self._locate(sample), rng)
            if item is not None:
                return item
        raise AssertionError("not reached")

    def read(self, video: int) -> dict[str, Any]:
        """An item of a whole video at this stride; UserError when it cannot be read."""
        reader = self._open(video)
        return self._item(video, reader, crop(self._pixels(video, reader, range(0, reader.num_frames, self.stride)), self.size))

    def report_broken(self, video: int, error: UserError) -> None:
        """Count, name and skip a video that `read` could not read; UserError when there are too many."""
        self.found.broken.add({self.found.videos[video].name: str(error)})

    def record_skipped(self, file: Path) -> None:
        """Name every video that is skipped, now or later, in this file."""
        self.found.broken.write_to(file)

    def fingerprint(self) -> str:
        """A hash of the names and sizes of the files, the captions and classes, and the view that whole videos are seen in."""
        everything = self.found.everything
        seen = {"size": self.size, "stride": self.stride, "known": [video.known.facts() for video in everything]}
        further = {"resize": (self.box, self.size), "antialias": (self.antialias, True)}
        return fingerprint(everything, seen | {name: now for name, (now, plain) in further.items() if now != plain})

    def _locate(self, sample: int) -> tuple[int, int, int]:
        """Which video, which of its samples, of how many."""
        if self.clips_per_video != "all":
            count = len(self.found.videos)
            return sample % count, sample // count, self.clips_per_video
        video = int(np.searchsorted(self._ends, sample, side="right"))
        first = int(self._ends[video - 1]) if video else 0
        return video, sample - first, int(self._ends[video]) - first

    def _try_clip(self, video: int, part: int, parts: int, rng: torch.Generator) -> dict[str, Any] | None:
        """The item, or None (counted, named) where this video cannot give one."""
        if self.found.videos[video].name in self.found.broken:
            return None
        try:
            reader = self._open(video)
            wanted = self._frames_of(video, part, parts, rng)
            frames = self._pixels(video, reader, wanted)
        except UserError as error:
            self.report_broken(video, error)
            return None
        frames = crop(frames, self.size, random_place(rng) if self.random_crop else None)
        return self._item(video, reader, flip_half(frames, rng) if self.flip else frames)

    def _frames_of(self, video: int, part: int, parts: int, rng: torch.Generator) -> range:
        """By the length that the look has shown, whichever library reads the frames."""
        clip = (self.found.facts[video].frames, self.num_frames, self.stride)
        name = label_of(self.found.videos[video].place)
        if self.random_clip:
            return random_clip(*clip, rng, name=name)
        if self.clips_per_video == "all":
            return all_clips(*clip, name=name)[part]
        return spread_clip(*clip, part, parts, name=name)

    def _pixels(self, video: int, reader: Reader, wanted: Sequence[int]) -> Tensor:
        """uint8 (t, h, w, c) that covers the asked size; resized in parts, because frames on disk may be far larger."""
        if isinstance(reader, HeldVideo):
            return torch.from_numpy(reader.read(wanted))
        facts = self.found.facts[video]
        at_once = max(1, min(AT_ONCE, MAX_READ // (3 * facts.height * facts.width)))
        parts = (wanted[i : i + at_once] for i in range(0, len(wanted), at_once))
        resized = (resize_to_cover(torch.from_numpy(reader.read(part)), self.box, antialias=self.antialias) for part in parts)
        return torch.cat([frames if self.random_crop else crop(frames, self.size) for frames in resized])

    def _item(self, video: int, reader: Reader, frames: Tensor) -> dict[str, Any]:
        fps = torch.tensor(reader.fps / self.stride)
        return {"video": to_float(frames), "index": video, "fps": fps, **self.found.videos[video].known.facts()}

    def _open(self, video: int) -> Reader:
        if video in self._held:
            return self._held[video]
        reader = open_video(self.found.videos[video].place, image_fps=self.image_fps, time_limit=self.time_limit)
        if not self.in_memory:
            return reader
        frames = self._pixels(video, reader, range(reader.num_frames)).numpy()
        return self._held.setdefault(video, HeldVideo(frames, reader.fps))

    def _held_size(self, facts: VideoFacts) -> tuple[int, int]:
        return covering_size(facts.height, facts.width, self.box) if self.random_crop else self.size
