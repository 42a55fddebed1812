"""A cache of the features of real clips, so that they are extracted once for many models.

A file of safetensors below LVDM_CACHE, else the user's cache folder, under the hash of all that decides the features: extractor,
source, clips and pixels. It holds the hashes of its content: a damaged file is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lvdm.evaluation.features import Measured
from lvdm.evaluation.protocols.clip_choice import Clip
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.sources.videos import Source
from lvdm.files import DamagedFile, check_description, check_tensors, with_hashes, write_whole
from lvdm.models.features.extractors import Extractor
from lvdm.processes import gather

PIXELS = ("frames", "stride", "resolution", "resize", "antialias", "long_side", "crop", "quantise")  # what pixels depend on
FORMAT = 1
KEY = "lvdm_features"  # in the metadata; files of earlier versions have no hashes, and are measured again


def cache_folder() -> Path:
    """Return the folder of cached features."""
    own = os.environ.get("LVDM_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(own).expanduser() if own else user / "lvdm") / "features"


def cached(
    source: Source, clips: Sequence[Clip], protocol: EvalProtocol, extractor: Extractor, measure: Callable[[], Measured]
) -> Measured:
    """Return cached features, or measure and cache them; all processes decide alike."""
    decides = {
        "format": FORMAT,
        "extractor": [extractor.name, extractor.sha256],
        "source": [source.fingerprint(), source.stamps()],
        "clips": [[clip.video, clip.start] for clip in clips],
        "pixels": {key: value for key, value in asdict(protocol).items() if key in PIXELS},
    }
    path = cache_folder() / f"{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:40]}.safetensors"
    found = _read(path, len(clips), extractor.dim)
    if not all(gather(found is not None)):
        found = measure()
        _write(path, found)
    assert found is not None
    return found


def _read(path: Path, count: int, dim: int) -> Measured | None:
    """Return the content of a file, or None if there is no whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            facts, features = json.loads(file.metadata()[KEY]), file.get_tensor("features")
        check_description(facts, path)
        check_tensors({"features": features}, facts, path, all_of_them=True)
        hashes = facts["hashes"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError, DamagedFile):
        return None
    is_fit = features.ndim in (2, 3) and (len(features), features.shape[-1], len(hashes)) == (count, dim, count)
    return Measured(features.numpy(), hashes) if is_fit and features.isfinite().all() else None


def _write(path: Path, measured: Measured) -> None:
    """Write features; those that cannot be written are measured again."""
    tensors = {"features": torch.from_numpy(np.ascontiguousarray(measured.features))}
    facts = {KEY: json.dumps(with_hashes({"hashes": measured.hashes}, tensors))}
    with contextlib.suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda new: save_file(tensors, new, facts))
