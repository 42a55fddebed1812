"""Reading videos: the frames that were asked, from every kind of file, wherever they lie in it."""

from pathlib import Path

import imageio
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import LENGTH, SIDE, frames_seen, write_images, write_video

from lvdm.data import ReadingOptions
from lvdm.data.reading.locations import natural_key
from lvdm.data.reading.readers import open_video
from lvdm.data.reading.video_file import decoding_start
from lvdm.types import UserError


@pytest.mark.parametrize("name", ["video.mp4", "video.avi", "video.webm", "video.mkv", "video.mov", "video.gif", "images"])
def test_every_kind_of_video_gives_the_frames_that_were_asked(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_video(path) if path.suffix else write_images(path)
    video = open_video(path, ReadingOptions(image_fps=7.0))
    assert video.num_frames == LENGTH
    assert video.fps == pytest.approx(12 if path.suffix else 7, rel=0.05)  # a gif's frame lasts whole hundredths of a second
    for wanted in ([5, 6, 7], [20, 2, 11], range(3, 24, 4)):
        frames = torch.from_numpy(open_video(path, ReadingOptions(image_fps=7.0)).read(wanted))
        assert frames.shape == (len(wanted), SIDE, SIDE, 3) and frames.dtype == torch.uint8
        assert frames_seen(frames) == list(wanted)


CODECS = {  # with open groups of pictures (B frames shown before their key frame), where seeking in decord goes wrong by itself
    "closed.mp4": {"codec": "libx264", "output_params": ["-g", "30", "-bf", "3"]},
    "open.mp4": {"codec": "libx264", "output_params": ["-g", "30", "-bf", "3", "-x264-params", "open-gop=1"]},
    "open.mkv": {"codec": "libx265", "output_params": ["-g", "30", "-x265-params", "log-level=none"]},
    "mpeg4.mp4": {"codec": "mpeg4", "output_params": ["-g", "40", "-bf", "2", "-sc_threshold", "1000000000"]},
    "xvid.avi": {"codec": "mpeg4", "output_params": ["-g", "40", "-bf", "2", "-sc_threshold", "1000000000"]},
    "x264.avi": {"codec": "libx264", "output_params": ["-g", "30", "-bf", "3"]},
    "vp9.webm": {"codec": "libvpx-vp9", "output_params": ["-g", "30"]},
}


@pytest.mark.parametrize("name", CODECS)
def test_reading_from_the_middle_equals_decoding_from_the_start(name: str, tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 99, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
    with imageio.get_writer(tmp_path / name, fps=25, macro_block_size=1, **CODECS[name]) as writer:
        for frame in range(130):
            writer.append_data((np.roll(texture, frame, 1) + frame).astype(np.uint8))
    every = open_video(tmp_path / name).read(range(130))
    means = every.mean(axis=(1, 2, 3))
    assert np.abs(means - means[0] - np.arange(130)).max() < 2.5  # one level brighter each frame, up to the codec's noise
    for first in range(0, 127, 3):
        assert np.array_equal(open_video(tmp_path / name).read([first, first + 3]), every[[first, first + 3]])
    one = open_video(tmp_path / name)
    for wanted in (range(33, 41), range(59, 60), range(60, 130), range(7, 57, 7), range(80, 100)):
        assert np.array_equal(one.read(wanted), every[wanted])


def test_decoding_starts_where_it_must() -> None:
    assert decoding_start([0, 30, 60], 59) == 59
    assert decoding_start([0, 30, 60], 30) == 29  # one frame more than a plain seek would decode
    assert decoding_start([0, 30, 60], 45) == 29 and decoding_start([0, 30, 60], 46) == 46
    assert decoding_start([0, 4, 8, 12], 14) == 0 == decoding_start([], 14)


def test_images_sort_by_their_numbers() -> None:
    assert sorted(["f10.png", "f9.png", "f010b.png", "f1.png"], key=natural_key) == ["f1.png", "f9.png", "f10.png", "f010b.png"]


@pytest.mark.parametrize("name", ["broken.mp4", "broken.gif"])
def test_a_file_that_is_no_video_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 5000)
    with pytest.raises(UserError, match=f"cannot read .*{name}") as error:
        open_video(tmp_path / name).read([0])
    assert "\n" not in str(error.value)


def test_images_of_different_sizes_are_no_video(tmp_path: Path) -> None:
    write_images(tmp_path / "clip", length=2)
    Image.new("RGB", (8, 8)).save(tmp_path / "clip" / "frame2.png")
    with pytest.raises(UserError, match="differ in size"):
        open_video(tmp_path / "clip").read([1, 2])
