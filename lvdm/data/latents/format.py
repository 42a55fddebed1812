"""What a folder of cached latents looks like on disk: safetensors shards that describe themselves, and an index of all of them.

`latents-00000.safetensors` holds one tensor (c, t, h, w) per video under the video's name. On request it also holds the
posterior's standard deviation under `name.std`, both of the mirrored video under `name.flipped` and `name.flipped.std`, and the
text features (n, d) of its caption, or of "", under `name.context`. Its metadata key `lvdm` is JSON: the facts of the cache, one
entry per video, and the hashes of all this and of every tensor. Which videos a shard holds depends on its number alone.
`index.json`, written last, repeats the entries of all shards with each shard's size in bytes and hash, and has a hash of its
own. A folder without an index is an unfinished encoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lvdm import files
from lvdm.data.limits import require_file, require_list
from lvdm.files import DamagedFile, check_description, check_tensors, with_hashes
from lvdm.rules import FLAG, MAPPING, TEXT, integer, listed, matching, number, one_of, optional, require_each
from lvdm.types import ABSENT, UserError

AGAIN = "run scripts/encode.py again, which writes it again"
FORMAT = 2  # raised when older readers cannot follow
INDEX = "index.json"
STD, FLIPPED, CONTEXT = ".std", ".flipped", ".context"  # suffixes of a video's name
DTYPES = {"float16": torch.float16, "float32": torch.float32}


SIZE = integer(1, 2**31)
FACTS = {
    **dict.fromkeys(("codec_fingerprint", "data_fingerprint"), TEXT),
    "temporal_factor": SIZE,
    "first_frame_alone": FLAG,
    "dtype": one_of(*DTYPES),
    "shard_size": SIZE,
    "clip_frames": optional(SIZE),
    **dict.fromkeys(("has_std", "has_flips"), FLAG),
    "precision": one_of("float32", "bfloat16"),
    "text_fingerprint": optional(TEXT),
}
ENTRY = {
    **{"name": TEXT, "shape": listed(SIZE, 4, 4), "fps": number(0)},
    **{"caption": optional(TEXT), "label": optional(integer(ABSENT))},
}
SHARD = {"file": matching(r"latents-\d{5,12}\.safetensors"), "size": integer(0), "hash": optional(TEXT)}
SHARDS = listed(MAPPING, 0, 2**31)
DAMAGE = (KeyError, TypeError, AttributeError, UserError)


class DamagedShard(DamagedFile):
    """A shard that is missing, cut short, or not what was written."""


@dataclass(frozen=True)
class CacheFacts:
    """Facts that all latents of a folder share."""

    codec_fingerprint: str  # of the autoencoder, scale and shift
    data_fingerprint: str  # of the videos they were made from
    temporal_factor: int  # frames of one latent
    dtype: str  # of the stored latents; text features are float32, and have this type in caches of earlier versions
    shard_size: int  # videos, or clips, of a shard
    clip_frames: int | None = None  # of clips that were encoded one by one; None for whole videos
    has_std: bool = False  # whether the posterior's standard deviation is stored too
    has_flips: bool = False  # whether the mirrored videos are stored too
    first_frame_alone: bool = False  # whether a video's first latent is its first frame alone
    precision: str = "float32"  # in which the autoencoder computed
    text_fingerprint: str | None = None  # of the text encoder that made the captions' features; None without

    def stored(self) -> dict[str, Any]:
        """Return the facts as files hold them, without the usual values of those that earlier versions do not know."""
        usual = {"first_frame_alone": False, "precision": "float32"}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    def latent_suffixes(self) -> list[str]:
        """Return what follows a video's name in the names of its latents."""
        flips, stds = ["", FLIPPED] if self.has_flips else [""], ["", STD] if self.has_std else [""]
        return [flip + std for flip in flips for std in stds]

    def suffixes(self) -> list[str]:
        """Return what follows a video's name in the names of all its tensors."""
        return self.latent_suffixes() + ([] if self.text_fingerprint is None else [CONTEXT])


@dataclass(frozen=True)
class Entry:
    """The latents of one video."""

    name: str
    shape: tuple[int, int, int, int]  # (c, t, h, w)
    fps: float  # of the frames, not of the latents
    caption: str | None = None
    label: int | None = None


@dataclass(frozen=True)
class Shard:
    """A file of latents."""

    file: str
    size: int  # bytes
    entries: tuple[Entry, ...]
    hash: str | None = None  # of all its content; None for shards of earlier versions


def shard_name(number: int) -> str:
    """Return the name of the file of a shard."""
    return f"latents-{number:05d}.safetensors"


def find_shards(folder: Path) -> list[str]:
    """Return the names of all shards, whole or not, in order."""
    return sorted(path.name for path in folder.glob("latents-*.safetensors"))


def write_shard(folder: Path, file: str, facts: CacheFacts, entries: Sequence[Entry], tensors: Mapping[str, Tensor]) -> Shard:
    """Write one shard, whole or not at all."""
    header = with_hashes({"format": FORMAT, "facts": facts.stored(), "entries": [asdict(entry) for entry in entries]}, tensors)
    write_whole(folder / file, lambda path: save_file(dict(tensors), path, {"lvdm": json.dumps(header)}))
    return Shard(file, (folder / file).stat().st_size, tuple(entries), header["hash"])


def read_shard(path: Path, *, with_tensors: bool = False) -> tuple[CacheFacts, Shard]:
    """Return the checked facts and entries of a shard's header; with `with_tensors`, check its tensors too."""
    with open_shard(path) as shard:
        found = _header(shard, path)
        if with_tensors:
            check_tensors({name: shard.get_tensor(name) for name in shard.keys()}, found, path, all_of_them=True)  # noqa: SIM118
    with _describing(path):
        facts, entries = _facts(found), _entries(found["entries"])
    return facts, Shard(path.name, path.stat().st_size, entries, found.get("hash"))


@contextmanager
def open_shard(path: Path) -> Iterator[safe_open]:
    """Open a shard, mapped into memory; errors of reading in the block become a DamagedShard."""
    try:
        require_file(path)
        with safe_open(path, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise DamagedShard(f"cannot read {path} ({error}); {AGAIN}") from error
    except DamagedFile as error:
        raise DamagedShard(f"{error}; {AGAIN}") from error


def check_shard(shard: safe_open, path: Path, names: Iterable[str], shard_hash: str | None) -> None:
    """Check these tensors of a shard; `shard_hash` is its hash in the index."""
    found = _header(shard, path)
    if shard_hash is not None and files.is_verifying() and found.get("hash") != shard_hash:
        raise DamagedFile(f"{path} is not the shard that {INDEX} lists")
    check_tensors({name: shard.get_tensor(name) for name in names}, found, path)


def write_index(folder: Path, facts: CacheFacts, shards: Sequence[Shard]) -> None:
    """Write the index of all shards, in the order of their files, so that a resumed encoding writes the same index."""
    ordered = [asdict(shard) for shard in sorted(shards, key=lambda shard: shard.file)]
    text = json.dumps(with_hashes({"format": FORMAT, "facts": facts.stored(), "shards": ordered})) + "\n"
    write_whole(folder / INDEX, lambda path: path.write_text(text))


def read_index(folder: Path) -> tuple[CacheFacts, list[Shard]]:
    """Return facts and shards of the index; check that all shards exist and have its sizes."""
    path = folder / INDEX
    if not path.exists():
        count = len(find_shards(folder))
        found = f"{count} shards, so encoding has not finished" if count else "no latents"
        raise UserError(f"{folder} has no {INDEX} and {found}; run scripts/encode.py, which resumes where it stopped")
    require_list(path)
    try:
        content = _parse(path.read_text(), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run scripts/encode.py again") from error
    with _describing(path):
        require_each({"shards": SHARDS}, content)
        facts, shards = _facts(content), [_shard(shard) for shard in content["shards"]]
    for shard in shards:
        have = (folder / shard.file).stat().st_size if (folder / shard.file).exists() else 0
        if have != shard.size:
            what = f"{folder / shard.file} has {have} bytes, {INDEX} says {shard.size}"
            raise DamagedShard(f"{what}; {AGAIN}")
    return facts, shards


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all; a full disk is a UserError and leaves no file."""
    try:
        files.write_whole(path, write)
    except (SafetensorError, OSError) as error:
        why = files.why_not_written(error)
        raise UserError(f"cannot write {path}: {why}; make room or choose another folder, finished shards stay") from error


def _header(shard: safe_open, path: Path) -> dict[str, Any]:
    return _parse((shard.metadata() or {}).get("lvdm", "null"), path)


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run scripts/encode.py again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is no cache of latents that this version of lvdm reads; encode into another folder")
    check_description(found, path, noted=path.parent)
    return found


@contextmanager
def _describing(path: Path) -> Iterator[None]:
    """Refuse in one sentence what lvdm does not write as facts or entries."""
    try:
        yield
    except DAMAGE as error:
        why = "its facts or entries are not what lvdm writes"
        raise UserError(f"{path} is damaged: {why}; encode into another folder") from error


def _facts(found: dict[str, Any]) -> CacheFacts:
    require_each(FACTS, found["facts"])
    return CacheFacts(**found["facts"])


def _shard(found: dict[str, Any]) -> Shard:
    require_each(SHARD, found)
    return Shard(found["file"], found["size"], _entries(found["entries"]), found.get("hash"))


def _entries(found: list[dict[str, Any]]) -> tuple[Entry, ...]:
    for entry in found:
        require_each(ENTRY, entry)
    return tuple(Entry(**{**entry, "shape": tuple(entry["shape"])}) for entry in found)
