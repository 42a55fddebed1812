"""Writing the cache of latents: shards of a fixed plan, by any number of processes, resumable, the index last.

Letters: latent z (c, t, h, w) of one whole video or clip, as the codec returns it (scaled and shifted).
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
    """A context that writes the missing shards of a folder: `todo` yields the numbers of the latents, `add` takes each latent.

    Shard k holds the videos from k * shard_size on, and process k modulo the number of processes writes it. So whole shards
    stay, however many processes there were before. The last process to leave without an error writes the index.

    Args:
        folder: created if it does not exist.
        facts: of the cache; a folder with other facts is refused.
        count: the number of all videos or clips.
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
            raise UserError(f"cannot create the folder {self.folder}: {error}; choose another one") from error
        found = {file: self._read(file) for file in find_shards(self.folder)}
        self._whole = {file: shard for file, shard in found.items() if shard is not None}
        if self._whole:
            logger.info("%s: %d of %d shards are written already", self.folder, len(self._whole), self._num_shards)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None or len(find_shards(self.folder)) < self._num_shards:
            return
        shards = [self._whole.get(file) or self._read(file) for file in find_shards(self.folder)]
        whole = [shard for shard in shards if shard is not None]
        if len(whole) == len(shards):
            write_index(self.folder, self.facts, whole)

    @property
    def _own(self) -> set[str]:
        """The names of the shards that this process writes, or checks if they exist already."""
        return {shard_name(k) for k in range(self.rank, self._num_shards, self.processes)}

    @property
    def _num_shards(self) -> int:
        return -(-self.count // self.facts.shard_size)

    def missing(self) -> list[range]:
        """Return the numbers of the videos of each shard that this process has to write."""
        size = self.facts.shard_size
        mine = range(self.rank, self._num_shards, self.processes)
        return [range(k * size, min((k + 1) * size, self.count)) for k in mine if shard_name(k) not in self._whole]

    def todo(self) -> Iterator[int]:
        """Yield the numbers of the videos to encode; after the last one of a shard, write the shard with the added latents."""
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
        """Add the latent (c, t, h, w) of the video that `todo` yielded last, under a unique name; `fps` is that of its frames.

        `further` holds the other tensors that the facts promise, by suffix.
        """
        assert latent.ndim == 4, f"latent of shape {tuple(latent.shape)}, expected (c, t, h, w)"
        tensors = {"": latent, **(further or {})}
        assert list(tensors) == self.facts.suffixes(), f"got {list(tensors)}, the facts promise {self.facts.suffixes()}"
        stored = {name + suffix: self._stored(name, suffix, tensor) for suffix, tensor in tensors.items()}
        self._check_shape(name, tuple(latent.shape))
        self._tensors |= stored
        c, t, h, w = latent.shape
        self._entries.append(Entry(name, (c, t, h, w), float(fps), caption, label))

    def _stored(self, name: str, suffix: str, tensor: Tensor) -> Tensor:
        dtype = "float32" if suffix == CONTEXT else self.facts.dtype  # text features stay the numbers of the text encoder
        stored = tensor.detach().to("cpu", DTYPES[dtype], memory_format=torch.contiguous_format)
        if not stored.isfinite().all():
            what, network = ("caption", "text encoder") if suffix == CONTEXT else ("latent", "autoencoder")
            raise UserError(f"the {what} of {name} is not finite in {dtype}; try float32, or mend the {network}")
        return stored.clone() if stored.data_ptr() == tensor.data_ptr() else stored

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        known = (entry for shard in self._whole.values() for entry in shard.entries)
        first = next(known, None) or next(iter(self._entries), None)
        if first is not None and (first.shape[0], *first.shape[2:]) != (shape[0], *shape[2:]):
            raise UserError(f"the latent of {name} is {shape}, that of {first.name} {first.shape}; only the length may differ")

    def _read(self, file: str) -> Shard | None:
        """Return an existing shard if it is whole, None if it is damaged; refuse one with other facts."""
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
