"""Clips of cached latents: `latent` (c, n, h, w) float32, `index`, `fps`, `caption`, `label`, and on request `latent_std` and
the caption's features `context`.

format.py describes the files. The index is checked against its hash, and each tensor that is read against its own: with
`in_memory` at once, else when a process first reads a part of the tensor. Which latents are drawn is a function of
(seed, epoch, sample) alone, as for videos.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from lvdm.data.clips import random_clip, spread_clip
from lvdm.data.frames import is_flipped
from lvdm.data.latents.format import CONTEXT, DTYPES, FLIPPED, STD, CacheFacts, Entry, check_shard, open_shard, read_index
from lvdm.data.layouts.listing import Description, require_folder
from lvdm.data.limits import require_memory
from lvdm.data.loading import Draw, as_draw
from lvdm.files import is_verifying
from lvdm.rules import integer, require
from lvdm.seeding import clip_generator
from lvdm.types import ABSENT, UserError, clip_span

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Index:
    """The videos that are long enough, the file of each, and with in_memory their tensors by suffix."""

    facts: CacheFacts
    entries: list[Entry]
    files: list[Path]
    hashes: dict[Path, str | None]  # of each file
    tensors: list[dict[str, Tensor]]


class LatentClips(Dataset[dict[str, Any]]):
    """Clips of latents that `scripts/encode.py` wrote.

    Args:
        root: the folder of shards and index.json.
        num_latents: latents of a clip (each is `temporal_factor` frames).
        stride: take every stride-th latent, as the key latents of a long video are; `fps` is divided by it.
        random_clip: clips start anywhere; if false they are spread evenly over the video (a single one is centred).
        clips_per_video: samples of each video in an epoch, so that few videos make a long epoch.
        std: give the posterior's standard deviation as `latent_std` too, for a stage with sample_posterior.
        flip: take half of the clips from the mirrored videos.
        context: give the features of the caption, or of "" if there is none, as `context` (n, d) float32.
        in_memory: hold all latents in memory, as stored. If false, read each clip from disk: only its own part, but the whole
            video the first time, to check it.
        seed: of the random clips.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        num_latents: int,
        stride: int = 1,
        random_clip: bool = True,
        clips_per_video: int = 1,
        std: bool = False,
        flip: bool = False,
        context: bool = False,
        in_memory: bool = True,
        seed: int = 0,
    ) -> None:
        require(integer(1, 10**6), num_latents=num_latents, stride=stride, clips_per_video=clips_per_video)
        self.root, self.num_latents, self.stride = Path(root).expanduser(), num_latents, stride
        self.random_clip, self.clips_per_video, self.std, self.flip = random_clip, clips_per_video, std, flip
        self.context, self.in_memory, self.seed = context, in_memory, seed
        self._index: _Index | None = None
        self._checked: set[str] = set()  # names of tensors

    def prepare(self) -> None:
        """Read the index and, with in_memory, the latents (constructing reads nothing)."""
        if self._index is not None:
            return
        require_folder(self.root, "the folder of latents")
        facts, shards = read_index(self.root)
        if self.std and not facts.has_std:
            raise UserError(f"{self.root} holds means alone; run scripts/encode.py with std=true, or leave std out")
        if self.flip and not facts.has_flips:
            raise UserError(f"{self.root} holds no mirrored videos; run scripts/encode.py with flips=true, or leave flip out")
        if self.context and facts.text_fingerprint is None:
            how = "run scripts/encode.py with a text_encoder, into another folder, or leave context out"
            raise UserError(f"{self.root} holds no features of captions; {how}")
        videos = [(entry, self.root / shard.file) for shard in shards for entry in shard.entries]
        usable = [(entry, file) for entry, file in videos if self._is_long_enough(entry)]
        if not usable:
            longest = max((entry.shape[1] for entry, _ in videos), default=0)
            raise UserError(
                f"clips need {clip_span(self.num_latents, self.stride)} latents, the longest of {len(videos)} videos in "
                f"{self.root} has {longest}; lower num_latents or stride of this data set"
            )
        if len(usable) < len(videos):
            short = next(entry.name for entry, _ in videos if not self._is_long_enough(entry))
            logger.warning("left out %d of %d videos of %s that are too short, such as %s",
                           len(videos) - len(usable), len(videos), self.root, short)  # fmt: skip
        entries, files = [entry for entry, _ in usable], [file for _, file in usable]
        hashes = {self.root / shard.file: shard.hash for shard in shards}
        index = _Index(facts, entries, files, hashes, [])
        self._index = replace(index, tensors=self._load(index)) if self.in_memory else index

    @property
    def names(self) -> list[str]:
        """The name of each video; an item's `index` counts here."""
        return [entry.name for entry in self._prepared().entries]

    @property
    def codec_fingerprint(self) -> str:
        """The fingerprint of the autoencoder that made the latents; another one cannot decode them."""
        return self._prepared().facts.codec_fingerprint

    @property
    def text_fingerprint(self) -> str | None:
        """The fingerprint of the text encoder that made the captions' features; None if the cache has none."""
        return self._prepared().facts.text_fingerprint

    @property
    def has_captions(self) -> bool:
        """Return whether items have a `caption`."""
        return any(entry.caption is not None for entry in self._prepared().entries)

    @property
    def labels(self) -> list[int]:
        """The class of each video, ABSENT for none."""
        return [ABSENT if entry.label is None else entry.label for entry in self._prepared().entries]

    @property
    def rates(self) -> list[float]:
        """The frames per second of items, of each video."""
        return [entry.fps / self.stride for entry in self._prepared().entries]

    @property
    def temporal_factor(self) -> int:
        """Frames of one latent."""
        return self._prepared().facts.temporal_factor

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(c, num_latents, h, w) of every item."""
        channels, _, height, width = self._prepared().entries[0].shape
        return channels, self.num_latents, height, width

    def fingerprint(self) -> str:
        """Return the fingerprint of the videos that the latents were made from."""
        return self._prepared().facts.data_fingerprint

    def __len__(self) -> int:
        return len(self._prepared().entries) * self.clips_per_video

    def __getitem__(self, key: int | Draw) -> dict[str, Any]:
        draw, index = as_draw(key, len(self)), self._prepared()
        part, video = divmod(draw.index, len(index.entries))
        entry = index.entries[video]
        rng = clip_generator(self.seed, draw.epoch, draw.index, 0)  # as VideoFolder draws
        if self.random_clip:
            wanted = random_clip(entry.shape[1], self.num_latents, self.stride, rng, name=entry.name)
        else:
            wanted = spread_clip(entry.shape[1], self.num_latents, self.stride, part, self.clips_per_video, name=entry.name)
        fps = torch.tensor(entry.fps / self.stride)
        description = Description(entry.caption, entry.label).as_batch()
        side = FLIPPED if self.flip and is_flipped(rng) else ""
        return {**self._read(video, wanted, side), "index": video, "fps": fps, **description}

    def _read(self, video: int, wanted: range, side: str) -> dict[str, Tensor]:
        """Return copies of latents (c, num_latents, h, w) and context (n, d) in float32."""
        index, part = self._prepared(), slice(wanted.start, wanted.stop)
        keys = {"latent": side, **({"latent_std": side + STD} if self.std else {})}
        if self.in_memory:
            held = index.tensors[video]
            stored = {key: held[suffix][:, part] for key, suffix in keys.items()}
            context = held.get(CONTEXT)
        else:
            with open_shard(index.files[video]) as shard:
                name = index.entries[video].name
                names = [name + suffix for suffix in (*keys.values(), *([CONTEXT] if self.context else []))]
                self._check_once(shard, index.files[video], names)
                stored = {key: shard.get_slice(name + suffix)[:, part] for key, suffix in keys.items()}
                context = shard.get_tensor(name + CONTEXT) if self.context else None
        latents = {key: torch.empty(self.latent_shape).copy_(tensor[:, :: wanted.step]) for key, tensor in stored.items()}
        return latents if context is None else {**latents, "context": context.to(torch.float32, copy=True)}

    def _suffixes(self, facts: CacheFacts) -> list[str]:
        """Return the suffixes of the tensors that items need."""
        text = facts.text_fingerprint if self.context else None
        return replace(facts, has_std=self.std, has_flips=self.flip, text_fingerprint=text).suffixes()

    def _check_once(self, shard: safe_open, file: Path, names: list[str]) -> None:
        """Check the tensors that this process has not checked before, each as a whole."""
        new = [name for name in names if name not in self._checked]
        if new and is_verifying():
            check_shard(shard, file, new, self._prepared().hashes[file])
            self._checked.update(new)

    def _load(self, index: _Index) -> list[dict[str, Tensor]]:
        facts, entries, files = index.facts, index.entries, index.files
        suffixes = self._suffixes(facts)
        latents = sum(torch.Size(entry.shape).numel() for entry in entries) * sum(suffix != CONTEXT for suffix in suffixes)
        texts = len(entries) * self._context_size(files[0], entries[0]) if self.context else 0
        require_memory(latents * DTYPES[facts.dtype].itemsize + texts * torch.float32.itemsize, f"the latents of {self.root}")
        tensors: list[dict[str, Tensor]] = []
        for file, videos in groupby(zip(files, entries, strict=True), key=lambda video: video[0]):
            with open_shard(file) as shard:
                names = [entry.name for _, entry in videos]
                if is_verifying():
                    check_shard(shard, file, [name + suffix for name in names for suffix in suffixes], index.hashes[file])
                tensors += [{suffix: shard.get_tensor(name + suffix) for suffix in suffixes} for name in names]
        return tensors

    def _context_size(self, file: Path, entry: Entry) -> int:
        """Return the number of elements of a caption's features, the same for all."""
        with open_shard(file) as shard:
            return torch.Size(shard.get_slice(entry.name + CONTEXT).get_shape()).numel()

    def _is_long_enough(self, entry: Entry) -> bool:
        return entry.shape[1] >= clip_span(self.num_latents, self.stride)

    def _prepared(self) -> _Index:
        self.prepare()
        assert self._index is not None
        return self._index
