"""Writing the cache of latents: whole videos into shards, resumable after a kill, the index last.

Letters: latent z (c, t, h, w) of one whole video, as the codec gives it (scaled and shifted).
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lvdm.data.latent_index import (
    DTYPES,
    CacheFacts,
    DamagedShard,
    Entry,
    Shard,
    find_shards,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)
from lvdm.types import UserError

logger = logging.getLogger(__name__)


class LatentWriter:
    """A context that adds videos' latents to a folder. Entering it finds what an earlier, killed writer left (`done`);
    leaving it without an error writes the rest and the index. Whole shards are kept, what was in memory is made again.

    Args:
        folder: made where it does not exist; one writer at a time.
        codec_fingerprint, data_fingerprint: what the latents come from; a folder of others is refused.
        temporal_factor: frames of one latent.
        shard_size: videos in a shard, the most that a kill can lose.
        dtype: as stored: float16, or float32 to keep every bit.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        codec_fingerprint: str,
        data_fingerprint: str,
        temporal_factor: int,
        shard_size: int = 64,
        dtype: str = "float16",
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"latents cannot be stored as {dtype}; choose {' or '.join(DTYPES)}")
        if shard_size < 1:
            raise UserError(f"shard_size is {shard_size}, at least 1 video is needed")
        self.folder, self.shard_size = Path(folder).expanduser(), shard_size
        self.facts = CacheFacts(codec_fingerprint, data_fingerprint, temporal_factor, dtype)
        self._shards: list[Shard] = []
        self._entries: list[Entry] = []
        self._tensors: dict[str, Tensor] = {}
        self.done: set[str] = set()  # names of the videos that need not be encoded any more

    def __enter__(self) -> LatentWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.folder}: {error}; choose another one") from error
        self._shards = [shard for file in find_shards(self.folder) if (shard := self._resume(file)) is not None]
        self.done = {entry.name for shard in self._shards for entry in shard.entries}
        if self.done:
            logger.info("%s: %d videos are there already", self.folder, len(self.done))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            write_index(self.folder, self.facts, self._shards)

    def add(self, name: str, latent: Tensor, *, fps: float, caption: str | None = None, label: int | None = None) -> None:
        """One whole video (c, t, h, w); `fps` is that of its frames, caption and label as the data set says them."""
        assert latent.ndim == 4, f"latent of shape {tuple(latent.shape)}, expected (c, t, h, w)"
        assert name not in self.done, f"{name} is in the cache already; ask `done` first"
        stored = latent.detach().to("cpu", DTYPES[self.facts.dtype], memory_format=torch.contiguous_format)
        if not stored.isfinite().all():
            raise UserError(f"the latent of {name} is not finite in {self.facts.dtype}; try float32, or mend the autoencoder")
        self._check_shape(name, tuple(stored.shape))
        self._tensors[name] = stored.clone() if stored.data_ptr() == latent.data_ptr() else stored
        self._entries.append(Entry(name, tuple(stored.shape), float(fps), caption, label))
        self.done.add(name)
        if len(self._entries) == self.shard_size:
            self._flush()

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        first = next((entry for shard in self._shards for entry in shard.entries), None) or next(iter(self._entries), None)
        if first is not None and (first.shape[0], *first.shape[2:]) != (shape[0], *shape[2:]):
            raise UserError(f"the latent of {name} is {shape}, that of {first.name} {first.shape}; only the length may differ")

    def _flush(self) -> None:
        if self._entries:
            file = shard_name(self._next_number())
            self._shards.append(write_shard(self.folder, file, self.facts, self._entries, self._tensors))
            self._entries, self._tensors = [], {}

    def _next_number(self) -> int:
        """The first number not in use: the place of a shard that was cut short is filled before new ones are added."""
        taken = {shard.file for shard in self._shards}
        return next(number for number in range(len(taken) + 1) if shard_name(number) not in taken)

    def _resume(self, file: str) -> Shard | None:
        """A shard that is there: kept when it is whole and ours, refused when it is another's; one cut short is written over."""
        try:
            facts, shard = read_shard(self.folder / file)
        except DamagedShard as error:
            logger.warning("%s", error)
            return None
        differing = [key for key, value in asdict(self.facts).items() if getattr(facts, key) != value]
        if differing:
            what = f"{self.folder} holds latents with another {' and '.join(differing)}"
            raise UserError(f"{what}; choose another folder or remove this one")
        return shard
