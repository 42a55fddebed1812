"""Options of reading: one record decides how data sets, the probe and evaluation see a video."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from video_files import LENGTH, frames_seen, write_images, write_video

from lvdm.data import ReadingOptions, VideoFolder
from lvdm.data.layouts.listing import Video, fingerprint
from lvdm.data.reading.options import ResampledVideo
from lvdm.evaluation.sources.videos import open_source
from lvdm.types import UserError


class Numbers:
    """A video whose frames are their numbers."""

    def __init__(self, num_frames: int, fps: float) -> None:
        self.num_frames, self.fps = num_frames, fps

    def read(self, frames: list[int]) -> np.ndarray:
        assert all(0 <= frame < self.num_frames for frame in frames)
        return np.array(frames)


RATES = [24000 / 1001, 25.0, 30000 / 1001, 30.0, 1000 / 70, 59.94005994005994]
EXACT = [Fraction(24000, 1001), 25, Fraction(30000, 1001), 30, Fraction(100, 7), Fraction(60000, 1001)]
EXACT = dict(zip(RATES, EXACT, strict=True))


@given(st.integers(1, 80), st.sampled_from(RATES), st.sampled_from([*RATES, 8.0, 12.5]))
def test_a_resampled_video_shows_the_frame_of_each_time(length: int, rate: float, fps: float) -> None:
    video = ResampledVideo(Numbers(length, rate), fps)
    frame, taken = Fraction(1) / EXACT[rate], []
    time = Fraction(0)
    while time < length * frame:  # the slow way: step through time and look which frame is shown
        taken.append(max(i for i in range(length) if i * frame <= time))
        time += 1 / Fraction(EXACT.get(fps, fps))
    assert video.num_frames == len(taken) and video.fps == fps
    assert video.read(range(video.num_frames)).tolist() == taken


def test_clips_lengths_and_rates_are_those_of_the_resampled_videos(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")  # 24 frames at 12 per second
    write_images(tmp_path / "b")
    options = {"num_frames": 4, "size": 16, "stride": 2, "random_clip": False}
    data = VideoFolder(tmp_path, **options, reading=ReadingOptions(fps=8, image_fps=24))
    assert [(facts.num_frames, facts.fps) for facts in data.usable.facts] == [(16, 8), (8, 8)]
    assert frames_seen(data[0]["video"]) == [6, 9, 12, 15] and frames_seen(data[1]["video"]) == [0, 6, 12, 18]
    assert data[0]["fps"] == data[1]["fps"] == 4
    assert frames_seen(data.read(0)["video"]) == list(range(0, LENGTH, 3))
    held = VideoFolder(tmp_path, **options, reading=data.reading, in_memory=True)
    assert torch.equal(held[0]["video"], data[0]["video"])
    plain = VideoFolder(tmp_path, **options)  # the probe's cache holds the files, whatever the options
    assert [facts.num_frames for facts in plain.usable.facts] == [LENGTH, LENGTH]


def test_fingerprints_follow_what_changes_frames_or_rates_and_stay_as_they_were_without(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x" * 5)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.png").write_bytes(b"yy")

    def taken(reading: ReadingOptions) -> str:
        return fingerprint([Video(name, tmp_path / name, reading=reading) for name in ("a.mp4", "c")], {"size": [8, 8]})

    plain, recorded = ReadingOptions(), "1bb264a780f71a2eb8d0f58b1a4fb9f0"  # by the code before there were options
    assert taken(plain) == taken(replace(plain, time_limit=3)) == recorded
    assert len({taken(plain), taken(replace(plain, fps=8)), taken(replace(plain, image_fps=8)), taken(Later(start=4))}) == 4


def test_evaluation_reads_by_the_options_of_the_data_set(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "a.mp4")

    def source(**reading: float):
        params = {"root": str(tmp_path / "v"), "num_frames": 2, "size": 8}
        params["reading"] = {"target": "lvdm.data.ReadingOptions", "params": reading}
        node = {"target": "lvdm.data.VideoFolder", "params": params}
        data = {"target": "lvdm.data.VideoData", "params": {"train": node, "batch_size": 1}}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": data}))
        return open_source(tmp_path / "c.yaml", split="train")

    slow, plain = source(fps=4, time_limit=7), source()
    assert slow.lengths == [8] and plain.lengths == [LENGTH]
    assert frames_seen(torch.from_numpy(slow.read(0, range(2, 5)))) == [6, 9, 12]
    assert slow.fingerprint() != plain.fingerprint(), "cached features of other frames are not taken"
    assert slow.videos[0].reading.time_limit == 7


@dataclass(frozen=True)
class Later(ReadingOptions):
    """A user's own option: leave out the first frames."""

    start: int = 0

    def view(self, video):
        return _Later(super().view(video), self.start)


class _Later:
    def __init__(self, video, start: int) -> None:
        self.video, self.start = video, start
        self.num_frames, self.fps = max(0, video.num_frames - start), video.fps

    def read(self, frames):
        return self.video.read([frame + self.start for frame in frames])


def test_an_option_of_ones_own_is_a_subclass(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    data = VideoFolder(tmp_path, num_frames=3, size=8, random_clip=False, clips_per_video="all", reading=Later(fps=6, start=5))
    assert [frames_seen(item["video"]) for item in data] == [[10, 12, 14], [16, 18, 20]]
    with pytest.raises(UserError, match=r"a.mp4 has 4; lower num_frames"):
        VideoFolder(tmp_path, num_frames=5, size=8, reading=Later(start=20)).prepare()


def test_options_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    for wrong in ({"fps": 0}, {"time_limit": float("nan")}, {"image_fps": -1}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*, expected"):
            ReadingOptions(**wrong)
    with pytest.raises(UserError, match="time_limit has no effect with reading"):
        VideoFolder("x", num_frames=1, size=8, time_limit=3, reading=ReadingOptions())
    with pytest.raises(UserError, match="no frame rate, so it cannot be resampled to 8 frames per second"):
        ResampledVideo(Numbers(5, 0), 8)
