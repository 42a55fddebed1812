"""Which frames a clip takes, and frames resized, cropped, flipped and turned into floats: against slow and foreign versions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as tvf

from lvdm.data.clips import all_clips, clip_frames, last_start, random_clip, spread_clip
from lvdm.data.frames import flip_half, resize_and_crop, to_float
from lvdm.sampling.pipeline import to_uint8
from lvdm.seeding import clip_generator
from lvdm.types import UserError

clips = st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))  # length, num_frames, stride


def every_clip(length: int, num_frames: int, stride: int) -> list[list[int]]:
    tried = [[start + i * stride for i in range(num_frames)] for start in range(length)]
    return [clip for clip in tried if clip[-1] < length]


@given(clips, st.integers(0, 1000))
def test_clips_are_those_of_a_slow_enumeration(sizes: tuple[int, int, int], seed: int) -> None:
    possible = every_clip(*sizes)
    if not possible:
        with pytest.raises(UserError, match="lower num_frames or stride"):
            last_start(*sizes)
        return
    assert [list(clip_frames(start, *sizes[1:])) for start in range(last_start(*sizes) + 1)] == possible
    assert list(random_clip(*sizes, clip_generator(seed))) in possible
    taken = [list(clip) for clip in all_clips(*sizes)]
    assert all(clip in possible for clip in taken)
    assert [frame for clip in taken for frame in clip] == list(range(0, sizes[2] * sizes[1] * len(taken), sizes[2]))
    after_last = taken[-1][-1] + sizes[2]
    assert after_last + (sizes[1] - 1) * sizes[2] >= sizes[0]  # no further clip would fit


@given(clips, st.integers(1, 5))
def test_the_only_spread_clip_is_centred_and_more_keep_their_order(sizes: tuple[int, int, int], parts: int) -> None:
    if not every_clip(*sizes):
        return
    centre = spread_clip(*sizes)
    before, behind = centre[0], sizes[0] - 1 - centre[-1]
    assert 0 <= behind - before <= 1
    starts = [spread_clip(*sizes, part, parts)[0] for part in range(parts)]
    assert starts == sorted(starts) and all(0 <= start <= last_start(*sizes) for start in starts)


def test_random_starts_are_uniform() -> None:
    rng = clip_generator(0)
    counts = np.bincount([random_clip(12, 3, 2, rng)[0] for _ in range(8000)])
    assert len(counts) == 8
    assert ((counts - 1000) ** 2 / 1000).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = .001


def test_a_short_video_is_told_with_what_it_has_and_what_is_needed() -> None:
    with pytest.raises(UserError, match="clip needs 16 frames, a.mp4 has 7; lower num_frames"):
        last_start(7, 16, name="a.mp4")


@pytest.mark.parametrize("have", [(48, 80), (80, 48), (33, 47), (20, 31)])
@pytest.mark.parametrize("want", [(32, 32), (24, 40)])
def test_resize_and_crop_match_torchvision(have: tuple[int, int], want: tuple[int, int]) -> None:
    frames = torch.randint(0, 256, (3, *have, 3), dtype=torch.uint8)
    scale = max(want[0] / have[0], want[1] / have[1])
    cover = [max(w, int(h * scale + 1e-9)) for w, h in zip(want, have, strict=True)]
    x = tvf.resize(frames.permute(0, 3, 1, 2).float(), cover, antialias=True)
    expected = tvf.center_crop(x, list(want)).permute(0, 2, 3, 1)
    got = resize_and_crop(frames, want)
    assert got.dtype == torch.uint8
    assert (got.float() - expected).abs().max() <= 1.1  # rounded to whole levels once along each axis


def test_resize_matches_pil_on_a_photo_like_image() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 9), size=(60, 90), mode="bicubic").clamp(0, 1)
    image = (smooth[0].permute(1, 2, 0) * 255).byte()
    expected = Image.fromarray(image.numpy()).resize((48, 32), Image.Resampling.BILINEAR).crop((8, 0, 40, 32))
    got = resize_and_crop(image[None], (32, 32))[0]
    assert (got.int() - torch.from_numpy(np.array(expected)).int()).abs().max() <= 1


def test_frames_that_fit_are_left_as_they_are() -> None:
    frames = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    assert resize_and_crop(frames, (16, 16)) is frames


def test_levels_survive_the_way_to_floats_and_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16, 1).repeat(1, 1, 1, 3)
    video = to_float(frames)
    assert video.shape == (3, 2, 8, 16) and video.min() == -1 and video.max() == 1 and video.is_contiguous()
    back, clipped = torch.from_numpy(to_uint8(torch.stack([video, video * 3])))
    assert torch.equal(back, frames)
    assert torch.equal(clipped, ((frames.int() * 3) - 255).clamp(0, 255).to(torch.uint8))  # 127.5 (3 x + 1) = 3 level - 255


def test_a_flip_mirrors_half_of_the_clips_and_all_frames_of_a_clip() -> None:
    frames = torch.arange(8, dtype=torch.uint8).repeat(3, 2, 1)[..., None]  # (t, h, w, 1)
    flips = [flip_half(frames, clip_generator(0, i)) for i in range(200)]
    mirrored = [torch.equal(clip, frames.flip(2)) for clip in flips]
    assert all(is_flipped or torch.equal(clip, frames) for clip, is_flipped in zip(flips, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130
