"""Features of chosen clips: read by workers, resized to the protocol's pixels, extracted in any number of processes.

A clip's features depend on its pixels alone, so processes, workers and batch size change nothing but time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lvdm.data.loading import next_batch
from lvdm.evaluation.protocols.clip_choice import Clip, Side, frame_numbers
from lvdm.evaluation.protocols.manifest import pixels_sha256
from lvdm.evaluation.protocols.pixels import prepare
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.sources.videos import Source
from lvdm.models.features.extractors import Extractor, FrozenFeatures
from lvdm.processes import Process, gather
from lvdm.types import UserError


@dataclass(frozen=True)
class Measured:
    """Features (n, d) of clips in their order, and the hash of each one's pixels."""

    features: np.ndarray
    hashes: list[str]


class ClipPixels(Dataset[tuple[np.ndarray, str]]):
    """Clips as the extractor gets them, uint8 (t, h, w, 3), with the hash of their pixels."""

    def __init__(self, source: Source, clips: Sequence[Clip], protocol: EvalProtocol, of: Side) -> None:
        self.source, self.clips, self.protocol, self.of = source, clips, protocol, of

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        clip = self.clips[index]
        frames = self.source.read(clip.video, frame_numbers(clip, self.protocol, self.of))
        pixels = prepare(torch.from_numpy(np.array(frames)), self.protocol).numpy()
        return pixels, pixels_sha256(pixels)

    def batches(self, size: int, *, workers: int) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield clips in order, uint8 (b, t, h, w, 3), all of one size, and their hashes."""
        loaded = iter(DataLoader(self, batch_size=size, num_workers=workers, collate_fn=list))
        sizes: set[tuple[int, ...]] = set()
        while (batch := next_batch(loaded)) is not None:
            sizes.update(clip.shape for clip, _ in batch)
            _check_one_size(sizes)
            yield torch.from_numpy(np.stack([clip for clip, _ in batch])), [pixels for _, pixels in batch]


def measure(
    source: Source,
    clips: Sequence[Clip],
    protocol: EvalProtocol,
    of: Side,
    extractor: Extractor,
    *,
    batch_size: int,
    workers: int = 0,
) -> Measured:
    """Measure this process's part of the clips, and return those of all processes."""
    process = Process.this()
    share = process.share(len(clips))
    mine = ClipPixels(source, [clips[i] for i in share], protocol, of)
    hashes: list[str] = []
    sizes: set[tuple[int, ...]] = set()

    def pixels() -> Iterator[Tensor]:
        for batch, of_batch in mine.batches(batch_size, workers=workers):
            sizes.add(tuple(batch.shape[1:]))
            hashes.extend(of_batch)
            yield batch

    features = extract(pixels(), extractor, total=len(mine), what=f"{of} clips")
    parts = gather((features, hashes, sizes))
    _check_one_size(set().union(*(found for *_, found in parts)))
    return Measured(np.concatenate([part for part, *_ in parts]), [one for _, part, _ in parts for one in part])


def extract(batches: Iterable[Tensor], extractor: Extractor, *, total: int, what: str) -> np.ndarray:
    """Return features (n, d), or (n, t, d) of frames, float32, of batches of uint8 clips (b, t, h, w, 3).

    The network gets passes of one size, the last one padded, so that a clip's rounding depends neither on the batches nor on how
    many clips there are.
    """
    made = []
    with tqdm(total=total, desc=what, unit="clip", delay=2.0, mininterval=1.0, disable=Process.this().rank > 0) as bar:
        for clips, count in _passes(batches, extractor):
            made.append(checked_rows(extractor(clips).cpu().numpy(), len(clips), extractor)[:count])
            bar.update(count)
    return np.concatenate(made) if made else np.empty((0, extractor.dim), np.float32)


def _passes(batches: Iterable[Tensor], extractor: Extractor) -> Iterator[tuple[Tensor, int]]:
    """Yield the clips of each pass, padded with the last one, and how many of them count; all clips of a pass have one size."""
    waiting: list[Tensor] = []
    size = 1
    for clip in (clip for batch in batches for clip in batch):
        if waiting and (len(waiting) == size or clip.shape != waiting[0].shape):
            yield _padded(waiting, size)
            waiting = []
        if not waiting:  # an extractor of a user's own promises nothing of batches
            size = extractor.clips_at_once(len(clip)) if isinstance(extractor, FrozenFeatures) else 1
        waiting.append(clip)
    if waiting:
        yield _padded(waiting, size)


def _padded(clips: Sequence[Tensor], size: int) -> tuple[Tensor, int]:
    return torch.stack([*clips, *[clips[-1]] * (size - len(clips))]), len(clips)


def checked_rows(features: np.ndarray, clips: int, extractor: Extractor) -> np.ndarray:
    """Return what an extractor made of so many clips, once it is finite and has a row for each, (n, d) or (n, t, d) of frames."""
    is_fit = features.ndim in (2, 3) and (len(features), features.shape[-1]) == (clips, extractor.dim)
    if not is_fit or not np.isfinite(features).all():
        got = f"{features.shape}" if not is_fit else "numbers that are not finite"
        raise UserError(
            f"{extractor.name} returned {got} for {clips} clips; expected finite features ({clips}, {extractor.dim}), or "
            f"({clips}, t, {extractor.dim}) of frames: mend the extractor, or its `dim`"
        )
    return features


def _check_one_size(shapes: set[tuple[int, ...]]) -> None:
    """Refuse clips of several sizes, over all batches and processes alike."""
    if len(shapes) > 1:
        sizes = " and ".join(f"{width} x {height}" for _, height, width, _ in sorted(shapes))
        raise UserError(f"clips are of several sizes, {sizes}; change the protocol to resolution=SIDE resize='crop, bilinear'")
