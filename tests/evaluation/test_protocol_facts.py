"""Protocols against their sources: the recorded facts, and slow versions of what the published codes do to pixels and clips."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lvdm.evaluation.protocols.clip_choice import choose_clips, frame_numbers, most_clips
from lvdm.evaluation.protocols.facts import FACTS, INFERRED, REPOSITORIES
from lvdm.evaluation.protocols.named import PROTOCOLS, EvalProtocol, get_protocol
from lvdm.evaluation.protocols.page import page
from lvdm.evaluation.protocols.pixels import prepare
from lvdm.jobs.evaluate import EvalSettings, evaluate
from lvdm.models.features.c3d import prepared
from lvdm.models.features.random_networks import random_c3d

OURS = {"motion2048", "frames2048"}  # not published
DESCRIBING = ("name", "version", "source", "notes")


def test_the_page_of_protocols_is_made_of_the_facts() -> None:
    written = Path(__file__).parents[2] / "docs" / "protocols.md"
    assert written.read_text() == page(), "write page() of lvdm.evaluation.protocols.page into docs/protocols.md again"


def test_every_field_that_a_protocol_sets_has_a_source_and_follows_it() -> None:
    assert set(FACTS) == set(PROTOCOLS) - OURS
    defaults = {f.name: f.default for f in fields(EvalProtocol)}
    for name, facts in FACTS.items():
        protocol = PROTOCOLS[name].as_dict() | {"metrics": PROTOCOLS[name].metrics}
        told = [item for fact in facts for item in fact.fields.items()]
        assert not [(name, key, value) for key, value in told if protocol[key] != value]
        unknown = [key for key, value in protocol.items() if value != defaults[key] and key not in dict(told)]
        assert not set(unknown) - set(DESCRIBING), (name, unknown)
        for fact in facts:
            is_cited = fact.where == INFERRED or any(fact.where.startswith(short) for short in (*REPOSITORIES, "StyleGAN-V"))
            assert is_cited, fact


# Pixels -------------------------------------------------------------------------------------------------------------------

Frame = np.ndarray  # (h, w, 3)


def weights(length: int, out: int, *, antialias: bool) -> np.ndarray:
    """(out, length) of bilinear resizing on half-pixel centres, tap by tap."""
    scale, found = length / out, np.zeros((out, length))
    for row in range(out):
        centre = (row + 0.5) * scale
        if antialias:
            reach = max(scale, 1.0)
            for tap in range(max(0, int(centre - reach + 0.5)), min(length, int(centre + reach + 0.5))):
                found[row, tap] = max(0.0, 1 - abs(tap + 0.5 - centre) / reach)
        else:
            at = max(0.0, centre - 0.5)
            low = min(int(at), length - 1)
            found[row, low] += 1 - (at - low)
            found[row, min(low + 1, length - 1)] += at - low
    return found / found.sum(axis=1, keepdims=True)


def bilinear(frame: Frame, height: int, width: int, *, antialias: bool = False) -> Frame:
    down, across = (weights(a, b, antialias=antialias) for a, b in zip(frame.shape, (height, width), strict=False))
    return np.einsum("ij,jkc,lk->ilc", down, frame.astype(float), across)


def lanczos(frame: Frame, height: int, width: int) -> Frame:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def torchvision_sizes(frame: Frame, side: int) -> tuple[int, int]:
    height, width, _ = frame.shape
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def rounded_crop(frame: Frame, side: int) -> Frame:
    """torchvision's: int(round(odd / 2)), which is to even."""
    top, left = int(round((frame.shape[0] - side) / 2.0)), int(round((frame.shape[1] - side) / 2.0))
    return frame[top : top + side, left : left + side]


def floored_crop(frame: Frame, side: int) -> Frame:
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    return frame[top : top + side, left : left + side]


def videogpt(frame: Frame, side: int, *, antialias: bool) -> Frame:
    """TATS tats/data.py:118-133, CDFVD cdfvd/utils/data_utils.py:51-65."""
    height, width, _ = frame.shape
    scale = side / min(height, width)
    size = (side, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), side)
    return floored_crop(bilinear(frame, *size, antialias=antialias), side)


def lvdm(frame: Frame, side: int) -> Frame:
    """LVDM lvdm/data/frame_dataset.py:288-291."""
    return rounded_crop(bilinear(frame, *torchvision_sizes(frame, side)), side)


def pvdm(frame: Frame, side: int) -> Frame:
    """PVDM tools/data_utils.py:73-81."""
    return bilinear(floored_crop(frame, min(frame.shape[:2])), side, side)


def styleganv(frame: Frame, side: int) -> Frame:
    """SGV src/scripts/convert_videos_to_frames.py:74-75."""
    return rounded_crop(lanczos(frame, *torchvision_sizes(frame, side)), side)


def latte(frame: Frame, side: int) -> Frame:
    """Latte tools/convert_videos_to_frames.py:78-79."""
    return lanczos(rounded_crop(frame, min(frame.shape[:2])), side, side)


def tats_frames(frame: Frame, side: int) -> Frame:
    """TATS tats/data.py:598-616."""
    return lanczos(floored_crop(frame, min(frame.shape[:2])), side, side)


PIXELS: dict[str, Callable[[Frame, int], Frame]] = {
    "styleganv-fvd2048-16f": styleganv,
    "styleganv-fvd2048-128f": styleganv,
    "lvdm-fvd2048": lvdm,
    "pvdm-fvd2048": pvdm,
    "pvdm-fvd2048-128f": pvdm,
    "pvdm-rfvd": pvdm,
    "tats": lambda frame, side: videogpt(frame, side, antialias=False),
    "tats-frames": tats_frames,
    "latte": latte,
    "cdfvd2048": lambda frame, side: videogpt(frame, side, antialias=True),
}


@pytest.mark.parametrize("size", [(30, 49), (49, 30), (36, 65), (65, 36), (41, 57), (24, 43), (30, 30), (17, 40)])
@pytest.mark.parametrize("name", PIXELS)
def test_pixels_are_those_of_the_source(name: str, size: tuple[int, int]) -> None:
    """Noise, so that a crop one pixel off shows; margins of 3 modulo 4, where rounding half to even and down differ."""
    protocol = replace(PROTOCOLS[name], resolution=24)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = PIXELS[name](frame, 24)
    got = prepare(torch.from_numpy(frame)[None], protocol)[0].numpy().astype(float)
    if expected.dtype == np.uint8:
        assert np.array_equal(got, expected)
    else:  # cut off at whole levels, but for float noise
        assert got.shape == expected.shape and (got <= expected + 2e-3).all() and (got > expected - 1 - 2e-3).all()


# Clips --------------------------------------------------------------------------------------------------------------------

Windows = list[tuple[int, int]]  # (video, first frame)
LENGTHS = [0, 3, 4, 5, 6, 9, 11, 12, 13, 14, 31, 32, 33]


def styleganv_clips(lengths: list[int], frames: int, stride: int) -> Windows:
    """SGV src/training/dataset.py:323-324 and 403, where randint includes both ends; Latte's is the same."""
    usable = [(video, length) for video, length in enumerate(lengths) if length >= frames * stride]
    return [(video, start) for video, length in usable for start in range(length - frames * stride + stride - 1 + 1)]


def windows(lengths: list[int], frames: int, stride: int) -> Windows:
    """LVDM frame_dataset.py:178 and 308, PVDM dataloader.py:142, TATS and CDFVD by torchvision's VideoClips of step 1."""
    assert stride == 1
    return [(video, start) for video, length in enumerate(lengths) for start in range(length) if start + frames <= length]


def tats_frames_clips(lengths: list[int], frames: int, stride: int) -> Windows:
    """TATS data.py:565 and 592-593: randint(0, length - 1 - frames), both included."""
    usable = [(video, length) for video, length in enumerate(lengths) if length > frames * stride]
    return [(video, start) for video, length in usable for start in range(length - 1 - frames * stride + 1)]


CLIPS: dict[str, Callable[[list[int], int, int], Windows]] = {
    "styleganv-fvd2048-16f": styleganv_clips,
    "styleganv-fvd2048-128f-sub8": styleganv_clips,
    "lvdm-fvd2048": windows,
    "pvdm-fvd2048": styleganv_clips,
    "pvdm-rfvd": windows,
    "tats": windows,
    "tats-frames": tats_frames_clips,
    "latte": styleganv_clips,
    "cdfvd2048": windows,
}


@pytest.mark.parametrize("name", CLIPS)
def test_the_clips_that_can_be_drawn_are_those_of_the_source(name: str) -> None:
    """Over many seeds, of clips of 4 frames; one clip a video, or all windows."""
    protocol = get_protocol(name, frames=4)
    possible = CLIPS[name](LENGTHS, 4, protocol.stride)
    of_videos = sorted({video for video, _ in possible})
    drawn = set()
    for seed in range(1 if name == "tats" else 400):
        asked = replace(protocol, seed=seed)
        taken = choose_clips(LENGTHS, asked, of="real", count=most_clips(LENGTHS, asked, of="real"))
        drawn |= {(clip.video, clip.start) for clip in taken}
        if protocol.real_clips == "one random a video":
            assert sorted(clip.video for clip in taken) == of_videos
        assert all(frame_numbers(clip, asked, "real")[-1] < LENGTHS[clip.video] for clip in taken)
    assert drawn == set(possible)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_generated_video_of_exactly_a_clip_is_measured(name: str) -> None:
    protocol = PROTOCOLS[name]
    length = protocol.frames * protocol.fake_stride
    assert most_clips([length], replace(protocol, runs=1), of="fake") == 1


def test_tgan2_scores_the_floats_and_not_their_levels() -> None:
    """As TGAN2 tgan2/evaluations/inception_score.py:69-83 does, on networks with random weights."""
    generator = torch.Generator().manual_seed(0)
    noise, tint = (2 * torch.rand(6, 3, frames, side, side, generator=generator) - 1 for frames, side in ((16, 20), (1, 1)))
    video = (noise + tint).clamp(-1, 1)

    def by_hand(x: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return random_c3d(0, width=1 / 8)(prepared(x, torch.full((), 128.0))).double().numpy()

    def score(p: np.ndarray) -> float:
        return float(np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), axis=1))))

    settings = EvalSettings({"runs": 1, "eps": 0.0}, feature_width=1 / 8, device="cpu")
    found = evaluate(None, video, "tgan2-is", num=6, features="random", settings=settings).values["is"].value
    levels = ((video + 1) * 127.5).byte() / 127.5 - 1
    assert found == pytest.approx(score(by_hand(video)), rel=1e-5)
    assert found != pytest.approx(score(by_hand(levels)), rel=1e-3), "levels score otherwise"
