"""`scripts/benchmark.py CONFIG --stage data`: clips a second from disk to batches, and whether memory grows while they come.

With `--published`, in turn with the way of the published data sets: in the training process itself, for each clip, every frame of
its video is opened, then the clip is resized in float32. (Some resize every frame too; here only the clip's, which favours it.)
"""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from lvdm.data import Draw, VideoData, VideoFolder
from lvdm.data.frames import covering_size
from lvdm.data.loading import ClipSet
from lvdm.types import UserError

TURNS = 4  # of each way

Way = Callable[[], object]  # all of a turn's clips


@dataclass
class Turn(Sampler[Draw]):
    """So many draws of one epoch, and none more: workers that read ahead would work in the other way's time."""

    samples: int
    of: int
    epoch: int = 0

    def __iter__(self) -> Iterator[Draw]:
        order = torch.randperm(self.of, generator=torch.Generator().manual_seed(self.epoch))
        return (Draw(self.epoch, int(order[number % self.of])) for number in range(self.samples))

    def __len__(self) -> int:
        return self.samples


def measure_data(data: VideoData, *, batches: int, batch_size: int, published: bool) -> dict[str, Any]:
    """Clips a second of reading, and of the published way where it is asked for."""
    train = videos_on_disk(data, "data")
    turn = Turn(batches * batch_size, len(train))
    loader = loader_of(train, data, turn, batch_size)
    ways: dict[str, Way] = {"ours": lambda: take_all(loader)}
    if published:
        ways["published"] = lambda: take_all(plain_clip(train, draw) for draw in turn)
    return in_turn(ways, turn, workers=data.num_workers)


def videos_on_disk(data: VideoData, stage: str) -> VideoFolder:
    """The data set of training, looked at, where it is one that reads video files again and again."""
    train = data.train
    if not isinstance(train, VideoFolder):
        raise UserError(f"--stage {stage} measures reading videos, but data.params.train is {type(train).__name__}")
    if train.in_memory:
        raise UserError(f"--stage {stage} measures reading from disk; set data.params.train.params.in_memory=false")
    train.prepare()
    return train


def loader_of(clips: ClipSet, data: VideoData, turn: Turn, batch_size: int) -> DataLoader[dict[str, Any]]:
    """Batches as training reads them, with the workers of the config."""
    ahead = {"persistent_workers": data.num_workers > 0, "prefetch_factor": data.prefetch_factor}
    pinned = torch.cuda.is_available()
    return DataLoader(clips, batch_size, sampler=turn, num_workers=data.num_workers, pin_memory=pinned, **ahead)  # type: ignore[arg-type]


def in_turn(ways: dict[str, Way], turn: Turn, *, workers: int) -> dict[str, Any]:
    """Clips a second of each way's turns, and the memory of all our processes after the first and the last."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    memory = []
    for number in tqdm(range(TURNS + 1), desc="turns", unit="turn", leave=False):
        turn.epoch = number
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(turn.samples / (time.perf_counter() - start))
        memory.append(memory_mib())
    return report(rates, memory, turn.samples, workers)


def report(rates: dict[str, list[float]], memory: list[float], clips: int, workers: int) -> dict[str, Any]:
    """The first turn starts the workers and warms the disk's cache, and is left out."""
    rates = {name: found[1:] for name, found in rates.items()}
    found: dict[str, Any] = {"clips a turn": clips, "workers": workers, "clips per second": rates, "memory (MiB)": memory}
    print(f"{clips} clips a turn, {TURNS} turns in turn, {workers} workers")
    for name, each in rates.items():
        print(f"  {name:<10} {median(each):.3g} clips/s ({min(each):.3g} to {max(each):.3g})")
    if len(rates) == 2:
        (one, ours), (other, theirs) = rates.items()
        found["ratios"] = ratios = [first / second for first, second in zip(ours, theirs, strict=True)]
        print(f"  {one} is {median(ratios):.2f} times as fast as {other} ({min(ratios):.2f} to {max(ratios):.2f})")
    first, last, all_clips = memory[0], memory[-1], clips * len(memory)
    print(f"  memory of all processes: {first:.0f} MiB after {clips} clips, {last:.0f} MiB after {all_clips}")
    return found


def take_all(items: Any) -> int:
    """Takes every item and keeps none."""
    return sum(1 for _ in items)


def memory_mib() -> float:
    """Of this process and its workers; what they share is counted once. Without the files that are mapped, such as libraries: a
    program's share of those changes as others that use them come and go."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    texts = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    kib = (int(size) for text in texts for size in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE))
    return sum(kib) / 1024


def plain_clip(data: VideoFolder, draw: Draw) -> Tensor:
    """The published way: all frames of the video, then a clip of them in float32, resized and cropped; (3, t, h, w)."""
    place = data.found.videos[draw.index % len(data.found.videos)].place
    frames = every_frame(place)
    span = (data.num_frames - 1) * data.stride + 1
    start = int(torch.randint(len(frames) - span + 1, ()))
    clip = torch.from_numpy(frames[start : start + span : data.stride]).permute(0, 3, 1, 2).float() / 127.5 - 1
    clip = F.interpolate(clip, size=covering_size(*clip.shape[2:], data.size), mode="bilinear", antialias=True)
    top, left = ((have - want) // 2 for have, want in zip(clip.shape[2:], data.size, strict=True))
    return clip[:, :, top : top + data.size[0], left : left + data.size[1]].transpose(0, 1)


def every_frame(place: Any) -> np.ndarray:
    """(t, h, w, 3) uint8 of a folder of images or a video file."""
    import decord

    if not isinstance(place, Path):
        raise UserError("--published reads files and folders of images; measure tar shards without it")
    if place.is_dir():
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in sorted(place.iterdir())])
    reader = decord.VideoReader(os.fspath(place))
    return reader.get_batch(range(len(reader))).asnumpy()
