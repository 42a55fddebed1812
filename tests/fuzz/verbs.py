"""Parts of lvdm that are tried without a command around them, because that is faster; each takes arguments as a command does."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import lvdm
from lvdm.checkpoints.model_file import read_info
from lvdm.data import ListSplit, TarShards, VideoFolder, VideoTable
from lvdm.jobs.resume import read_run_checkpoint
from lvdm.types import UserError

MOST = 12  # samples read of a data set


class SilentDamage(Exception):
    """A damaged file was taken for a good one."""


class OutsideRoot(Exception):
    """A data set names a file that does not lie below its root."""


def verb(work: Callable[..., None]) -> Callable[[Sequence[str]], int]:
    """As a command: 0, or 2 with a sentence."""

    def call(arguments: Sequence[str]) -> int:
        try:
            work(*arguments)
        except (UserError, OSError) as error:
            print(f"it: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        return 0

    return call


def load(path: str) -> None:
    lvdm.load(path)


def intact(path: str, original: str) -> None:
    """Load a file with damage: an error, or all that the original holds."""
    if _content(path) != _content(original):
        raise SilentDamage(f"{path} loads, and is not what {original} is")


def _content(path: str) -> str:
    model, digest = lvdm.load(path), hashlib.sha256()
    for network in (model.codec.autoencoder, model.denoiser):
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    info = read_info(path)
    return digest.hexdigest() + json.dumps({name: getattr(info, name) for name in SEEN}, sort_keys=True, default=str)


SEEN = ("kind", "autoencoder", "denoiser", "schedule", "objective", "scale", "shift", "sampling", "step")


def resume(path: str) -> None:
    read_run_checkpoint(Path(path))


def intact_checkpoint(path: str, original: str) -> None:
    read, whole = (read_run_checkpoint(Path(each)) for each in (path, original))
    if not _same(read, whole):
        raise SilentDamage(f"{path} loads, and is not what {original} is")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(_same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


def videos(root: str, settings: str) -> None:
    _read(Path(root), **json.loads(settings))


def table(root: str, file: str, settings: str) -> None:
    _read(Path(root), layout=VideoTable(file, **json.loads(settings)))


def listed(root: str, file: str) -> None:
    _read(Path(root), split=ListSplit(file))


def shards(root: str) -> None:
    _read(Path(root), layout=TarShards())


def _read(root: Path, **settings: Any) -> None:
    folder = VideoFolder(root, **{"num_frames": 2, "size": 16, "time_limit": 5.0, **settings})
    folder.prepare()
    for video in folder.usable.listed:
        if isinstance(video.location, Path) and os.path.relpath(video.location, root).startswith(".."):
            raise OutsideRoot(str(video.location))
    for index in range(min(len(folder), MOST)):
        folder[index]
    folder.fingerprint()


WORKS = (load, intact, resume, intact_checkpoint, videos, table, listed, shards)
VERBS = {work.__name__: verb(work) for work in WORKS}
