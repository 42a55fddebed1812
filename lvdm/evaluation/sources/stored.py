"""What a result says of videos that exist: the hash of their content, and how those that were measured are stored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lvdm.data.reading.locations import Location, TarMember, image_files, suffix_of
from lvdm.data.reading.video_file import codec_of
from lvdm.evaluation.results.provenance import FakeSource
from lvdm.evaluation.sources.videos import Source, VideoSource
from lvdm.processes import Process, gather

NO_STREAM = (".gif", ".npy", ".npz")  # videos that are no files of a codec
NAMED = 20  # skipped videos that a result names; it counts all


def fake_files(source: Source, videos: Iterable[int]) -> FakeSource:
    """Return what a result says of generated videos that exist, of which these were measured; all processes must call it."""
    return FakeSource(source.kind, source.name, content_sha256(source), stored=stored_as(source, videos))


def content_sha256(source: Source) -> str:
    """Return the hash of an array, or of the names and the content of all files of videos, shared by the processes."""
    if not isinstance(source, VideoSource):
        return source.fingerprint()
    mine = [source.videos[number].location for number in Process.this().share(len(source.videos))]
    hashes = [one for part in gather([_sha256(location) for location in mine]) for one in part]
    lines = "".join(f"{found} {name}\n" for found, name in zip(hashes, source.names, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def stored_as(source: Source, videos: Iterable[int]) -> dict[str, Any]:
    """Return the sizes, rates and codecs of these videos, each with how many have it, and the skipped videos of the source."""
    if not isinstance(source, VideoSource):
        height, width = source.read(0, range(1)).shape[1:3]
        return {"sizes": {f"{width}x{height}": len(set(videos))}, "fps": {}, "codecs": {}, "num_skipped": 0, "skipped": []}
    numbers = sorted(set(videos))
    facts = [one for part in source.parts for one in part.facts]
    mine = [numbers[at] for at in Process.this().share(len(numbers))]
    codecs = [one for part in gather([_codec(source.videos[number].location) for number in mine]) for one in part]
    skipped = [name for part in source.parts for name in part.broken.reasons]
    return {
        "sizes": _counted(f"{facts[number].width}x{facts[number].height}" for number in numbers),
        "fps": _counted(f"{facts[number].fps:g}" for number in numbers if _states_rate(source.videos[number].location)),
        "codecs": _counted(codecs),
        "num_skipped": len(skipped),
        "skipped": skipped[:NAMED],
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common(NAMED))


def _files(location: Location) -> Sequence[Path | TarMember]:
    if isinstance(location, tuple):
        return location
    return image_files(location) if isinstance(location, Path) and location.is_dir() else [location]


def _states_rate(location: Location) -> bool:
    """Return whether this is a video file; images have the rate that they are read at."""
    return isinstance(location, TarMember) or (isinstance(location, Path) and location.is_file())


def _sha256(location: Location) -> str:
    digest = hashlib.sha256()
    for file in _files(location):
        content = file.read() if isinstance(file, TarMember) else file.read_bytes()
        digest.update(f"{Path(file.name).name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _codec(location: Location) -> str:
    """Return the codec of a video file, or the format of images and arrays by their suffix."""
    first = _files(location)[0]
    is_no_video = first is not location or suffix_of(first) in NO_STREAM
    return suffix_of(first).removeprefix(".") if is_no_video else codec_of(first)
