"""What a folder of cached latents looks like on disk: safetensors shards that describe themselves, and an index of all of them.

`latents-00000.safetensors` holds one tensor (c, t, h, w) per video under the video's name, and where asked for the posterior's
standard deviation under `name.std`, both of the mirrored video under `name.flipped` and `name.flipped.std`, and the text features
(n, d) of its caption, or of "", under `name.context`; its metadata key `lvdm` is JSON: the facts of the cache and one entry per
video. Which videos a shard holds depends on its number alone. `index.json`, written last, repeats them for all shards with each
shard's size in bytes. A folder without an index is an encoding that has not finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lvdm.types import UserError

FORMAT = 2  # raised when older readers cannot follow
INDEX = "index.json"
STD, FLIPPED, CONTEXT = ".std", ".flipped", ".context"  # behind a video's name
DTYPES = {"float16": torch.float16, "float32": torch.float32}


class DamagedShard(UserError):
    """A shard that is missing or cut short."""


@dataclass(frozen=True)
class CacheFacts:
    """What all latents of a folder share."""

    codec_fingerprint: str  # of the autoencoder, scale and shift that made them
    data_fingerprint: str  # of the videos they were made from
    temporal_factor: int  # frames of one latent
    dtype: str  # as stored
    shard_size: int  # videos, or clips, of a shard
    clip_frames: int | None = None  # of the clips that were encoded one by one; None where whole videos were
    has_std: bool = False  # whether the posterior's standard deviation is there too
    has_flips: bool = False  # whether the mirrored videos are there too
    text_fingerprint: str | None = None  # of the text encoder that made the captions' features; None where they are not there

    def latent_suffixes(self) -> list[str]:
        """Behind a video's name, of each of its latents."""
        flips, stds = ["", FLIPPED] if self.has_flips else [""], ["", STD] if self.has_std else [""]
        return [flip + std for flip in flips for std in stds]

    def suffixes(self) -> list[str]:
        """The same of all its tensors."""
        return self.latent_suffixes() + ([] if self.text_fingerprint is None else [CONTEXT])


@dataclass(frozen=True)
class Entry:
    """One video's latents."""

    name: str
    shape: tuple[int, int, int, int]  # (c, t, h, w)
    fps: float  # of the frames, not of the latents
    caption: str | None = None
    label: int | None = None


@dataclass(frozen=True)
class Shard:
    file: str
    size: int  # bytes
    entries: tuple[Entry, ...]


def shard_name(number: int) -> str:
    return f"latents-{number:05d}.safetensors"


def find_shards(folder: Path) -> list[str]:
    """Names of the shards that are there, whole or not, in order."""
    return sorted(path.name for path in folder.glob("latents-*.safetensors"))


def write_shard(folder: Path, file: str, facts: CacheFacts, entries: Sequence[Entry], tensors: Mapping[str, Tensor]) -> Shard:
    """Write one shard; no reader ever sees half of it."""
    header = json.dumps({"format": FORMAT, "facts": asdict(facts), "entries": [asdict(entry) for entry in entries]})
    write_whole(folder / file, lambda path: save_file(dict(tensors), path, {"lvdm": header}))
    return Shard(file, (folder / file).stat().st_size, tuple(entries))


def read_shard(path: Path) -> tuple[CacheFacts, Shard]:
    """The facts and entries in a shard's own header."""
    with open_shard(path) as shard:
        metadata = shard.metadata() or {}
    found = _parse(metadata.get("lvdm", "null"), path)
    return _facts(found, path), Shard(path.name, path.stat().st_size, _entries(found.get("entries"), path))


def open_shard(path: Path) -> safe_open:
    """The shard, mapped into memory."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DamagedShard(f"cannot read {path} ({error}); run scripts/encode.py again, which makes it anew") from error


def write_index(folder: Path, facts: CacheFacts, shards: Sequence[Shard]) -> None:
    """All shards, in order of their files: a resumed encoding gives the same index as one in a single go."""
    ordered = [asdict(shard) for shard in sorted(shards, key=lambda shard: shard.file)]
    text = json.dumps({"format": FORMAT, "facts": asdict(facts), "shards": ordered}) + "\n"
    write_whole(folder / INDEX, lambda path: path.write_text(text))


def read_index(folder: Path) -> tuple[CacheFacts, list[Shard]]:
    """The index, checked against the shards: all are there, none of another size."""
    path = folder / INDEX
    if not path.exists():
        count = len(find_shards(folder))
        found = f"{count} shards, so encoding has not finished" if count else "no latents"
        raise UserError(f"{folder} has no {INDEX} and {found}; run scripts/encode.py, which goes on where it stopped")
    found = _parse(path.read_text(), path)
    facts = _facts(found, path)
    shards = [_shard(shard, path) for shard in found.get("shards", [])]
    for shard in shards:
        have = (folder / shard.file).stat().st_size if (folder / shard.file).exists() else 0
        if have != shard.size:
            what = f"{folder / shard.file} has {have} bytes, {INDEX} says {shard.size}"
            raise DamagedShard(f"{what}; run scripts/encode.py again, which makes it anew")
    return facts, shards


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, flush to the disk, rename; a full disk is one sentence and leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error}; make room or choose another folder, what is written stays") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run scripts/encode.py again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is no cache of latents that this version of lvdm reads; encode into another folder")
    return found


def _facts(found: dict[str, Any], path: Path) -> CacheFacts:
    try:
        return CacheFacts(**found["facts"])
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error


def _shard(found: dict[str, Any], path: Path) -> Shard:
    try:
        return Shard(found["file"], found["size"], _entries(found["entries"], path))
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error


def _entries(found: Any, path: Path) -> tuple[Entry, ...]:
    try:
        return tuple(Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in found)
    except (KeyError, TypeError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: its facts or entries are not what lvdm writes; encode into another folder")
