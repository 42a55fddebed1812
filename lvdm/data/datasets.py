"""Clips of a folder of videos, as batches want them: `video` (3, t, h, w) in [-1, 1], `index`, `fps`, `caption`, `label`.

Which clip is drawn is a function of (seed, epoch, sample) alone. A video that cannot be read, or is too short, is skipped:
another one is drawn in its place, the same for everyone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lvdm.data.broken import BrokenCount
from lvdm.data.clips import random_clip, spread_clip
from lvdm.data.draws import Draw, as_draw, draw_integer, generator
from lvdm.data.folders import METADATA, Description, find_videos, fingerprint, match_metadata, read_metadata, require_folder
from lvdm.data.frames import as_size, flip_half, resize_and_crop, to_float
from lvdm.data.memory import require_memory
from lvdm.data.readers import HeldVideo, Reader, open_video
from lvdm.types import UserError

PROBED = 16  # videos read before training starts, so that a folder of unusable ones is found then
AT_ONCE = 128  # frames decoded before they are resized


@dataclass(frozen=True)
class _Found:
    """What looking at the disk has shown."""

    names: list[str]
    descriptions: list[Description]
    broken: BrokenCount


class VideoFolder(Dataset[dict[str, Any]]):
    """Clips of every video below `root`: mp4, avi, webm, mkv, mov, gif, or folders of images.

    Args:
        root: the folder; searched in sorted order, links followed, names with a leading dot left out.
        num_frames: frames of a clip.
        size: the side of the square frames, or [height, width]: resized to cover it, then cropped at the centre.
        stride: take every stride-th frame; the `fps` told to the network is the video's divided by it.
        random_clip: clips start anywhere; if false they are spread evenly over the video (a single one is centred).
        clips_per_video: how many samples of an epoch each video is, so that few videos make a long epoch.
        flip: mirror half of the clips left to right.
        in_memory: hold each video's frames, resized, in memory once they were read (each worker process its own).
        seed: of the random clips and flips.
        metadata: JSONL of captions and classes; left out, `metadata.jsonl` in root is read where it exists.
        image_fps: frames per second of folders of images, which do not say it themselves.
        max_broken: the fraction of opened videos that may be broken or too short before that is an error.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        num_frames: int,
        size: int | Sequence[int],
        stride: int = 1,
        random_clip: bool = True,
        clips_per_video: int = 1,
        flip: bool = False,
        in_memory: bool = False,
        seed: int = 0,
        metadata: str | Path | None = None,
        image_fps: float = 25.0,
        max_broken: float = 0.1,
    ) -> None:
        if min(num_frames, stride, clips_per_video) < 1:
            got = f"num_frames={num_frames}, stride={stride}, clips_per_video={clips_per_video}"
            raise UserError(f"{got}: each must be at least 1")
        if not 0 <= max_broken <= 1:
            raise UserError(f"max_broken is {max_broken}, expected a fraction from 0 to 1")
        self.root = Path(root).expanduser()
        self.num_frames, self.size, self.stride = num_frames, as_size(size), stride
        self.random_clip, self.clips_per_video, self.flip, self.seed = random_clip, clips_per_video, flip, seed
        self.metadata = None if metadata is None else Path(metadata).expanduser()
        self.image_fps, self.max_broken = image_fps, max_broken
        self.in_memory = in_memory
        self._held: dict[int, HeldVideo] = {}
        self._found: _Found | None = None

    def prepare(self) -> None:
        """Look at the disk (constructing does not): find the videos, read the metadata, try a few videos."""
        if self._found is not None:
            return
        require_folder(self.root, "the folder of videos")
        names = find_videos(self.root)
        if not names:
            raise UserError(f"no videos under {self.root}: expected mp4, avi, webm, mkv, mov or gif, or folders of jpg or png")
        broken = BrokenCount(len(names), self.max_broken, root=str(self.root))
        self._found = _Found(names, self._describe(names), broken)
        self._probe()

    @property
    def names(self) -> list[str]:
        """Each video's name below root; an item's `index` counts here."""
        return self._prepared().names

    def __len__(self) -> int:
        return len(self.names) * self.clips_per_video

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        draw, count = as_draw(key, len(self)), len(self.names)
        sample = draw.index
        for attempt in itertools.count():  # ends: when every video is broken, BrokenCount raises
            rng = generator(self.seed, draw.epoch, draw.index, attempt)
            if attempt > 0:
                sample = draw_integer(len(self), rng)
            item = self._try_clip(sample % count, sample // count, rng)
            if item is not None:
                return item
        raise AssertionError("not reached")

    def frame_count(self, video: int) -> int:
        """Frames of a whole video at this stride."""
        return -(-self._open(video).num_frames // self.stride)

    def read(self, video: int, frames: Sequence[int] | None = None) -> dict[str, Any]:
        """An item of a whole video, or of these of its frames (counted at this stride); UserError when it cannot be read."""
        reader = self._open(video)
        wanted = range(0, reader.num_frames, self.stride) if frames is None else [frame * self.stride for frame in frames]
        return self._item(video, reader, self._pixels(reader, wanted))

    def report_broken(self, video: int, error: UserError) -> None:
        """Count, name and skip a video that `read` could not read; UserError when there are too many."""
        self._prepared().broken.add_broken(video, str(error))

    def fingerprint(self) -> str:
        """A hash of the names and sizes of the files, the captions and classes, and the size and stride they are seen at."""
        seen = {"size": self.size, "stride": self.stride, "known": [d.facts() for d in self._prepared().descriptions]}
        return fingerprint(self.root, self.names, seen)

    def _prepared(self) -> _Found:
        self.prepare()
        assert self._found is not None
        return self._found

    def _describe(self, names: Sequence[str]) -> list[Description]:
        path = self.metadata or self.root / METADATA
        if self.metadata is None and not path.exists():
            return [Description()] * len(names)
        return match_metadata(names, read_metadata(path), str(path))

    def _probe(self) -> None:
        for video in sorted({i * len(self.names) // PROBED for i in range(PROBED)}):
            self._try_clip(video, 0, generator(self.seed, video))
        if self._held:
            mean = sum(held.frames.nbytes for held in self._held.values()) / len(self._held)
            require_memory(mean * len(self.names), f"all videos of {self.root} at this size")

    def _try_clip(self, video: int, part: int, rng: torch.Generator) -> dict[str, Any] | None:
        """The item, or None (counted, named) where this video cannot give one."""
        count = self._prepared().broken
        if video in count.broken:
            return None
        try:
            item = self._clip(video, part, rng)
        except UserError as error:
            count.add_broken(video, str(error))
            return None
        count.add_good(video)
        return item

    def _clip(self, video: int, part: int, rng: torch.Generator) -> dict[str, Any]:
        reader, name = self._open(video), str(self._path(video))
        if self.random_clip:
            wanted = random_clip(reader.num_frames, self.num_frames, self.stride, rng, name=name)
        else:
            wanted = spread_clip(reader.num_frames, self.num_frames, self.stride, part, self.clips_per_video, name=name)
        frames = self._pixels(reader, wanted)
        return self._item(video, reader, flip_half(frames, rng) if self.flip else frames)

    def _pixels(self, reader: Reader, wanted: Sequence[int]) -> Tensor:
        """uint8 (t, h, w, c) at the asked size; read in parts, because frames on disk may be far larger."""
        parts = [wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)]
        return torch.cat([resize_and_crop(torch.from_numpy(reader.read(part)), self.size) for part in parts])

    def _item(self, video: int, reader: Reader, frames: Tensor) -> dict[str, Any]:
        fps = torch.tensor(reader.fps / self.stride)
        return {"video": to_float(frames), "index": video, "fps": fps, **self._prepared().descriptions[video].facts()}

    def _open(self, video: int) -> Reader:
        if video in self._held:
            return self._held[video]
        reader = open_video(self._path(video), image_fps=self.image_fps)
        if not self.in_memory:
            return reader
        frames = self._pixels(reader, range(reader.num_frames)).numpy()
        return self._held.setdefault(video, HeldVideo(frames, reader.fps))

    def _path(self, video: int) -> Path:
        return self.root / self.names[video]
