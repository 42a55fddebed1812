"""Pixels as protocols measure them: against torchvision on tensors and on PIL images, and by levels known beforehand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tvf

from lvdm.evaluation.protocols.named import EvalProtocol, get_protocol
from lvdm.evaluation.protocols.pixels import prepare, to_levels

SIZES = [(36, 64), (64, 36), (41, 57), (30, 30), (12, 15)]


def protocol(resize: str, *, antialias: bool = True, quantise: str = "truncate") -> EvalProtocol:
    return get_protocol("lvdm-fvd2048", resolution=24, resize=resize, antialias=antialias, quantise=quantise)


def clip(size: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("resize", ["bilinear, crop", "crop, bilinear"])
def test_bilinear_is_torchvisions_cut_off_at_whole_levels(size: tuple[int, int], antialias: bool, resize: str) -> None:
    x = clip(size).permute(0, 3, 1, 2).float()
    x = tvf.center_crop(x, min(size)) if resize.startswith("crop") else x
    expected = tvf.center_crop(tvf.resize(x, 24, antialias=antialias), 24).permute(0, 2, 3, 1)
    for quantise, levels in (("truncate", expected + 1 / 1024), ("round", expected + 0.5)):
        got = prepare(clip(size), protocol(resize, antialias=antialias, quantise=quantise))
        assert got.shape == (2, 24, 24, 3) and torch.equal(got, levels.floor().clamp(0, 255).byte())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["lanczos, crop", "crop, lanczos"])
def test_lanczos_is_that_of_torchvision_on_images(size: tuple[int, int], resize: str) -> None:
    for frame, got in zip(clip(size), prepare(clip(size), protocol(resize)), strict=True):
        image = Image.fromarray(frame.numpy())
        image = tvf.center_crop(image, min(size)) if resize.startswith("crop") else image
        expected = tvf.center_crop(tvf.resize(image, 24, interpolation=tvf.InterpolationMode.LANCZOS), 24)
        assert np.array_equal(got.numpy(), np.asarray(expected))


def test_frames_of_the_right_size_and_of_protocols_without_one_are_left_as_they_are() -> None:
    frames = clip((24, 24))
    assert prepare(frames, protocol("lanczos, crop")) is frames
    wide = clip((36, 64))
    assert prepare(wide, get_protocol("tgan2-is")) is wide


@pytest.mark.parametrize("resize", ["bilinear, crop", "crop, bilinear", "lanczos, crop", "crop, lanczos"])
def test_a_plain_frame_of_any_level_stays_plain(resize: str) -> None:
    frames = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 31, 47, 3)
    assert torch.equal(prepare(frames, protocol(resize)), frames[:, :24, :24])


def test_levels_survive_floats_and_halves_go_where_the_protocol_says() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for quantise in ("truncate", "round"):
        assert torch.equal(to_levels(levels / 127.5 - 1, quantise), levels)
        assert to_levels(torch.tensor([-3.0, -1.0, 1.0, 3.0]), quantise).tolist() == [0, 0, 255, 255]
    between = (torch.tensor([0.4, 0.5, 0.6, 127.5]) / 127.5) - 1
    assert to_levels(between, "truncate").tolist() == [0, 0, 0, 127]
    assert to_levels(between, "round").tolist() == [0, 1, 1, 128]
