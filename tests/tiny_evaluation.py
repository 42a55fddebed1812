"""Arrays of tiny clips, and scripts/eval.py run on them with narrow random features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lvdm.cli.eval import main
from lvdm.evaluation.protocols.manifest import Manifest, read_manifest
from lvdm.toys.discs import discs
from lvdm.toys.scene import video_generator

WIDTH = 1 / 32
NARROW = ["--features", "random", "--feature-width", str(WIDTH)]
SHORT = ["--set", "frames=9"]  # the fewest that I3D takes


def toys(count: int, *, frames: int = 12, size: int = 16, split: str = "train") -> np.ndarray:
    """uint8 (n, t, h, w, 3): two discs that move."""
    return np.stack([discs(video_generator(0, split, index), frames, size).frames for index in range(count)])


def saved(path: Path, clips: np.ndarray) -> str:
    np.save(path, clips)
    return str(path)


def result_of(out: Path, *arguments: str) -> dict[str, Any]:
    """The JSON that the command wrote."""
    assert main([*arguments, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def values_of(out: Path, *arguments: str) -> dict[str, float]:
    return {name: told["value"] for name, told in result_of(out, *arguments)["metrics"].items()}


def manifest_of(out: Path) -> Manifest:
    return read_manifest(out.with_suffix(".manifest.jsonl"))
