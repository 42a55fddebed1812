"""Test videos whose frames say which they are: frame t is grey of level 10 t."""

import json
import os
import time
from pathlib import Path

import imageio
import numpy as np
import torch
from PIL import Image

from lvdm.data import VideoFolder

STEP, LENGTH, SIDE = 10, 24, 32


def grey(frame: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), STEP * frame, np.uint8)


def write_video(path: Path, length: int = LENGTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"duration": 1000 / 12} if path.suffix == ".gif" else {"fps": 12, "macro_block_size": 1}
    if path.suffix == ".webm":
        options["codec"] = "libvpx-vp9"
    with imageio.get_writer(path, **options) as writer:
        for frame in range(length):
            writer.append_data(grey(frame))


def write_images(folder: Path, length: int = LENGTH) -> None:
    folder.mkdir(parents=True)
    for frame in range(length):
        Image.fromarray(grey(frame)).save(folder / f"frame{frame}.png")


def frames_seen(video: torch.Tensor) -> list[int]:
    """Which frames of a test video these are, told from their grey; (3, t, h, w) or uint8 (t, h, w, 3)."""
    levels = (video.mean(dim=(0, 2, 3)) + 1) * 127.5 if video.is_floating_point() else video.float().mean(dim=(1, 2, 3))
    return (levels / STEP).round().int().tolist()


GOOD = 3  # whole videos of the folder that hostile files are put into


def write_good(root: Path) -> Path:
    """A folder of whole videos."""
    write_video(root / "good0.mp4")
    for number in range(1, GOOD):
        os.link(root / "good0.mp4", root / f"good{number}.mp4")
    return root


def reasons_of(root: Path, **options: object) -> dict[str, str]:
    """Why the broken videos of root are broken; the good ones are there, can be read, and are named where they should be."""
    started = time.monotonic()
    data = VideoFolder(root, num_frames=4, size=16, max_broken=0.9, time_limit=5.0, random_clip=False, **options)
    assert [name.removesuffix(".mp4")[-5:] for name in data.names if "good" in name] == [f"good{i}" for i in range(GOOD)]
    for item in data:
        json.dumps(data.names[item["index"]]).encode()
        assert frames_seen(item["video"]) == [10, 11, 12, 13]
    skipped = root.parent / "skipped.txt"
    skipped.write_text("")
    data.record_skipped(skipped)
    assert len(data.fingerprint()) == 32
    reasons = data.usable.broken.reasons
    assert skipped.read_text(encoding="utf-8").splitlines() == list(reasons.values())
    assert all(reason.isprintable() and len(reason) < 500 for reason in reasons.values())
    assert time.monotonic() - started < 5
    return reasons
