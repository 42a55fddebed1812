"""What a sample shows of a video: frames at the edges, resize and crop, the same for any number of workers and processes."""

from pathlib import Path

import imageio
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional as tvf
from video_files import frames_seen, write_video

from lvdm.data import AnyVideos, Draw, VideoData, VideoFolder
from lvdm.data.clips import all_clips, clip_span, count_clips
from lvdm.data.frames import crop, random_position, resize_to_cover
from lvdm.data.loading import EpochSampler
from lvdm.data.reading.readers import open_video
from lvdm.seeding import clip_generator
from lvdm.types import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 24, 9 and 5 frames whose frames say their number by grey, and one of noise, 48 x 64, that shows its crop."""
    root = tmp_path_factory.mktemp("videos")
    for name, length in (("a.mp4", 24), ("b.mp4", 9), ("c.avi", 5)):
        write_video(root / "grey" / name, length)
    (root / "noise").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for name in ("x.mp4", "y.mp4"):
        with imageio.get_writer(root / "noise" / name, fps=10, macro_block_size=1) as writer:
            for frame in range(12):
                writer.append_data(np.roll(noise, frame, 1))
    return root


@given(st.integers(0, 60), st.integers(1, 6), st.integers(1, 5))
def test_clips_are_counted_as_they_are_listed(length: int, num_frames: int, stride: int) -> None:
    is_long_enough = length >= clip_span(num_frames, stride)
    listed = all_clips(length, num_frames, stride) if is_long_enough else []
    assert count_clips(length, num_frames, stride) == len(listed)


def test_all_windows_of_all_videos_are_samples_each_once(root: Path) -> None:
    data = VideoFolder(root / "grey", num_frames=2, size=8, stride=2, random_clip=False, clips_per_video="all")
    seen = [(item["index"], *frames_seen(item["video"])) for item in data]
    windows = [(0, first, first + 2) for first in range(0, 24, 4)] + [(1, 0, 2), (1, 4, 6), (2, 0, 2)]
    assert seen == windows  # frame 8 of b and frame 4 of c begin windows that do not fit
    anywhere = VideoFolder(root / "grey", num_frames=2, size=8, stride=2, clips_per_video="all")
    assert [item["index"] for item in anywhere] == [index for index, *_ in windows], "long videos are more of an epoch"


def test_a_video_of_just_one_clip_gives_it_and_one_frame_less_is_named(root: Path) -> None:
    for num_frames, stride in ((9, 1), (5, 2), (3, 4)):  # b has 9 frames
        data = VideoFolder(root / "grey", num_frames=num_frames, size=8, stride=stride, max_broken=0.4)
        assert data.names == ["a.mp4", "b.mp4"] and "c.avi has 5" in data.usable.broken.reasons["c.avi"]
        assert {tuple(frames_seen(data[Draw(epoch, 1)]["video"])) for epoch in range(5)} == {tuple(range(0, 9, stride))}
    with pytest.raises(UserError, match="3 of 3 videos .* 2 frames at stride 24 need 25, .*c.avi has 5"):
        VideoFolder(root / "grey", num_frames=2, size=8, stride=24, max_broken=1).prepare()


def test_a_crop_lies_where_its_place_says() -> None:
    frames = torch.arange(7 * 9).reshape(1, 7, 9, 1)
    for top in range(4):
        for left in range(5):
            place = ((top + 0.5) / 4, (left + 0.5) / 5)
            assert torch.equal(crop(frames, (4, 5), place), frames[:, top : top + 4, left : left + 5])
    assert torch.equal(crop(frames, (4, 5), (1.0, 1.0)), frames[:, 3:, 4:])
    assert crop(frames, (7, 9), (0.3, 0.9)) is frames
    rng = clip_generator(0)
    tops = torch.tensor([random_position(rng) for _ in range(4000)]).mul(4).floor()[:, 0]
    counts = torch.bincount(tops.long())
    assert len(counts) == 4 and ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi-squared, 3 degrees of freedom, p = .001


@pytest.mark.parametrize("antialias", [True, False])
def test_resize_then_crop_matches_torchvision(root: Path, antialias: bool) -> None:
    options = {"num_frames": 3, "size": 16, "resize": 24, "antialias": antialias, "random_clip": False}
    got = (VideoFolder(root / "noise", **options)[0]["video"] + 1) * 127.5
    pixels = torch.from_numpy(open_video(root / "noise" / "x.mp4").read(range(4, 7))).permute(0, 3, 1, 2).float()
    expected = tvf.center_crop(tvf.resize(pixels, [24, 32], antialias=antialias), [16, 16])
    assert (got.transpose(0, 1) - expected).abs().max() <= 1.1  # rounded to whole levels once along each axis


def test_a_random_crop_is_one_place_for_all_frames_and_another_in_each_epoch(root: Path) -> None:
    options = {"num_frames": 2, "size": 16, "resize": 24, "random_crop": True}
    data, held = VideoFolder(root / "noise", **options), VideoFolder(root / "noise", in_memory=True, **options)
    pixels = torch.from_numpy(open_video(root / "noise" / "x.mp4").read(range(12)))
    resized = resize_to_cover(pixels, (24, 24)).float() / 127.5 - 1
    places = set()
    for epoch in range(12):
        video = data[Draw(epoch, 0)]["video"].permute(1, 2, 3, 0)
        assert torch.equal(video, held[Draw(epoch, 0)]["video"].permute(1, 2, 3, 0))
        found = [
            (top, left)
            for start in range(11)
            for top in range(9)
            for left in range(17)
            if torch.allclose(resized[start : start + 2, top : top + 16, left : left + 16], video, atol=1e-6)
        ]
        assert len(found) >= 1
        places |= set(found)
    assert len(places) > 6


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(UserError, match=r"resize \(16, 16\) is smaller than size \(24, 24\)"):
        VideoFolder("x", num_frames=1, size=24, resize=16)
    with pytest.raises(UserError, match="metadata has no effect with a layout"):
        VideoFolder("x", num_frames=1, size=24, metadata="m.jsonl", layout=AnyVideos())
    with pytest.raises(UserError, match="time_limit is 0"):
        VideoFolder("x", num_frames=1, size=24, time_limit=0)


ALL = {"num_frames": 3, "size": 16, "resize": 20, "random_crop": True, "flip": True, "clips_per_video": "all"}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_0_1_and_3_workers_give_the_same_batches(root: Path) -> None:
    def batches(workers: int) -> list[dict]:
        loader = VideoData(VideoFolder(root / "noise", **ALL), batch_size=3, num_workers=workers).train_dataloader()
        return [batch for epoch in range(2) for batch in (loader.sampler.set_epoch(epoch) or loader)]

    alone = batches(0)
    assert len(alone) == 4
    for workers in (1, 3):
        helped = batches(workers)
        assert all(torch.equal(a[key], b[key]) for a, b in zip(alone, helped, strict=True) for key in ("video", "index", "fps"))


def test_two_processes_share_what_one_would_draw(root: Path) -> None:
    def drawn(world_size: int, rank: int) -> list[torch.Tensor]:
        data = VideoFolder(root / "noise", **ALL)
        sampler = EpochSampler(data, seed=3, shuffle=True, processes=(world_size, rank))
        sampler.set_epoch(4)
        return [data[draw]["video"] for draw in sampler]

    alone, ranks = drawn(1, 0), [drawn(2, 0), drawn(2, 1)]
    together = [video for pair in zip(*ranks, strict=True) for video in pair]
    assert len(alone) == 8 and all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
