"""Folders of samples as sources: one file a video whatever the formats, and npz files as lvdm writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_evaluation import result_of, toys

import lvdm
from lvdm.data.layouts.folders import LOSSLESS_FIRST, AnyVideos, SampledVideos
from lvdm.evaluation.sources.videos import open_source
from lvdm.sampling.writers import FORMATS, open_writers, paths_for
from lvdm.types import UserError

COUNT = 3


@pytest.fixture(scope="module")
def videos() -> np.ndarray:
    return toys(COUNT, frames=10)


def written(folder: Path, videos: np.ndarray, formats: tuple[str, ...], below: str = "") -> Path:
    for number, frames in enumerate(videos):
        paths = paths_for(folder / below, f"seed0-{number:05d}", formats)
        with open_writers(paths, fps=8) as files:
            files.write(frames)
    return folder


def test_a_video_in_every_format_is_one_video_and_the_lossless_file_is_read(tmp_path: Path, videos: np.ndarray) -> None:
    source = open_source(written(tmp_path, videos, FORMATS), split="train")
    assert source.names == [f"seed0-{number:05d}.npz" for number in range(COUNT)]
    for number, frames in enumerate(videos):
        np.testing.assert_array_equal(source.read(number, range(10)), frames)
    assert len(AnyVideos().find(tmp_path)) == 3 * COUNT, "training lists what it listed"
    assert set(LOSSLESS_FIRST) > {"" if name == "frames" else f".{name}" for name in FORMATS}


def test_folders_of_frames_beside_a_contact_sheet_are_the_videos(tmp_path: Path, videos: np.ndarray) -> None:
    written(tmp_path, videos, ("frames",))
    (tmp_path / "sheet.png").write_bytes((tmp_path / "seed0-00000" / "000000.png").read_bytes())
    assert open_source(tmp_path, split="train").lengths == [10] * COUNT


def test_the_caption_of_any_format_is_that_of_the_video(tmp_path: Path, videos: np.ndarray) -> None:
    written(tmp_path, videos, ("mp4", "npz"))
    lines = [json.dumps({"file": f"seed0-{number:05d}.mp4", "caption": f"disc {number}"}) for number in range(COUNT)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    found = SampledVideos().find(tmp_path)
    assert [video.description.caption for video in found] == ["disc 0", "disc 1", "disc 2"]
    assert all(video.name.endswith(".npz") for video in found)


def test_npz_files_are_both_sides_of_a_measurement(tmp_path: Path, videos: np.ndarray) -> None:
    written(tmp_path / "real", videos, ("npz",), below="train")
    written(tmp_path / "fake", toys(COUNT, frames=10, split="val"), ("npz",))
    options = ["--protocol", "motion2048", "--allow-fewer", "--no-cache", "--set", "frames=10"]
    found = result_of(tmp_path / "a.json", "--real", str(tmp_path / "real"), "--fake", str(tmp_path / "fake"), *options)
    arrays = {"real": videos, "fake": toys(COUNT, frames=10, split="val")}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    same = result_of(tmp_path / "b.json", "--real", str(tmp_path / "real.npy"), "--fake", str(tmp_path / "fake.npy"), *options)
    assert found["metrics"]["fmd_n3"] == same["metrics"]["fmd_n3"]


def test_read_video_and_a_single_npz(tmp_path: Path, videos: np.ndarray) -> None:
    lvdm.save_video(videos[0], tmp_path / "one.npz")
    np.testing.assert_array_equal(lvdm.read_video(tmp_path / "one.npz"), videos[0])
    np.testing.assert_array_equal(lvdm.read_video(tmp_path / "one.npz", frames=4), videos[0][:4])
    np.testing.assert_array_equal(open_source(tmp_path / "one.npz", split="train").read(0, range(10)), videos[0])


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"video": np.zeros((2, 4, 4, 3))}, r"float64 \(2, 4, 4, 3\), expected one video, uint8 \(t, h, w, 3\)"),
        ({"video": np.zeros((2, 4, 4), np.uint8)}, "expected one video"),
        ({"a": np.zeros(2), "b": np.zeros(2)}, "several arrays, expected one video"),
    ],
)
def test_other_arrays_are_no_video(tmp_path: Path, arrays: dict[str, np.ndarray], sentence: str) -> None:
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        lvdm.read_video(tmp_path / "other.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:60])
    with pytest.raises(UserError, match="cannot read .*cut.npz"):
        lvdm.read_video(tmp_path / "cut.npz")


def test_the_truth_of_toy_videos_is_no_video(tmp_path: Path, videos: np.ndarray) -> None:
    written(tmp_path, videos, ("mp4",))
    (tmp_path / "truth").mkdir()
    np.savez(tmp_path / "truth" / "seed0-00000.npz", positions=np.zeros((10, 2)))
    assert len(SampledVideos().find(tmp_path)) == COUNT
