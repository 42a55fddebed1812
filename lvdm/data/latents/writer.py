"""Writing the cache of latents: shards of a fixed plan, by any number of processes, resumable after a kill, the index last.

Letters: latent z (c, t, h, w) of one whole video or clip, as the codec gives it (scaled and shifted).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lvdm.data.latents.format import (
    CONTEXT,
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
    """A context that makes the shards of a folder that are missing: `todo` says which latents, `add` takes each.

    Shard k holds the videos k * shard_size and following, and is made by process k modulo the number of processes; so what is
    whole stays, however many processes there were before. Whoever leaves without an error last writes the index.

    Args:
        folder: made where it does not exist.
        facts: of the cache; a folder of others is refused.
        count: of all videos or clips.
        share: (rank, processes).
    """

    def __init__(self, folder: str | Path, facts: CacheFacts, count: int, *, share: tuple[int, int] = (0, 1)) -> None:
        if facts.dtype not in DTYPES:
            raise UserError(f"latents cannot be stored as {facts.dtype}; choose {' or '.join(DTYPES)}")
        if facts.shard_size < 1:
            raise UserError(f"shard_size is {facts.shard_size}, at least 1 video is needed")
        self.folder, self.facts, self.count = Path(folder).expanduser(), facts, count
        self.rank, self.processes = share
        self._whole: dict[str, Shard] = {}
        self._entries: list[Entry] = []
        self._tensors: dict[str, Tensor] = {}

    def __enter__(self) -> LatentWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {self.folder}: {error}; choose another one") from error
        found = {file: self._look(file) for file in find_shards(self.folder)}
        self._whole = {file: shard for file, shard in found.items() if shard is not None}
        if self._whole:
            logger.info("%s: %d of %d shards are there already", self.folder, len(self._whole), self._num_shards)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None or len(find_shards(self.folder)) < self._num_shards:
            return
        shards = [self._whole.get(file) or self._look(file) for file in find_shards(self.folder)]
        if None not in shards:
            write_index(self.folder, self.facts, shards)

    @property
    def _own(self) -> set[str]:
        """Names of the shards that this process makes, or checks if they are there already."""
        return {shard_name(k) for k in range(self.rank, self._num_shards, self.processes)}

    @property
    def _num_shards(self) -> int:
        return -(-self.count // self.facts.shard_size)

    def missing(self) -> list[range]:
        """Numbers of the videos of each shard that this process is to make."""
        size = self.facts.shard_size
        mine = range(self.rank, self._num_shards, self.processes)
        return [range(k * size, min((k + 1) * size, self.count)) for k in mine if shard_name(k) not in self._whole]

    def todo(self) -> Iterator[int]:
        """Numbers of the videos to make, one by one; behind the last of a shard it is written, with those that were added."""
        for videos in self.missing():
            self._entries, self._tensors = [], {}
            yield from videos
            file = shard_name(videos.start // self.facts.shard_size)
            self._whole[file] = write_shard(self.folder, file, self.facts, self._entries, self._tensors)

    def add(
        self,
        name: str,
        latent: Tensor,
        *,
        fps: float,
        further: Mapping[str, Tensor] | None = None,
        caption: str | None = None,
        label: int | None = None,
    ) -> None:
        """The latent (c, t, h, w) of the video that `todo` gave last, under a name of its own; `fps` is that of its frames.

        `further` has what else the facts promise, by suffix."""
        assert latent.ndim == 4, f"latent of shape {tuple(latent.shape)}, expected (c, t, h, w)"
        tensors = {"": latent, **(further or {})}
        assert list(tensors) == self.facts.suffixes(), f"{list(tensors)} came, the facts say {self.facts.suffixes()}"
        stored = {name + suffix: self._stored(name, suffix, tensor) for suffix, tensor in tensors.items()}
        self._check_shape(name, tuple(latent.shape))
        self._tensors |= stored
        self._entries.append(Entry(name, tuple(latent.shape), float(fps), caption, label))

    def _stored(self, name: str, suffix: str, tensor: Tensor) -> Tensor:
        stored = tensor.detach().to("cpu", DTYPES[self.facts.dtype], memory_format=torch.contiguous_format)
        if not stored.isfinite().all():
            what, network = ("caption", "text encoder") if suffix == CONTEXT else ("latent", "autoencoder")
            raise UserError(f"the {what} of {name} is not finite in {self.facts.dtype}; try float32, or mend the {network}")
        return stored.clone() if stored.data_ptr() == tensor.data_ptr() else stored

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        known = (entry for shard in self._whole.values() for entry in shard.entries)
        first = next(known, None) or next(iter(self._entries), None)
        if first is not None and (first.shape[0], *first.shape[2:]) != (shape[0], *shape[2:]):
            raise UserError(f"the latent of {name} is {shape}, that of {first.name} {first.shape}; only the length may differ")

    def _look(self, file: str) -> Shard | None:
        """A shard that is there: kept when it is whole and ours, refused when it is another's; a damaged one is written over."""
        try:
            facts, shard = read_shard(self.folder / file, with_tensors=file in self._own)
        except DamagedShard as error:
            logger.warning("%s", error)
            return None
        differing = [key for key, value in asdict(self.facts).items() if getattr(facts, key) != value]
        if differing:
            what = f"{self.folder} holds latents with another {' and '.join(differing)}"
            raise UserError(f"{what}; choose another folder or remove this one")
        return shard
