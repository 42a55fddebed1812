"""The parts of a folder of videos, and the order in which sorted protocols take them: that of one flat folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_evaluation import NARROW, SHORT, result_of, saved, toys

from lvdm.cli.eval import main
from lvdm.evaluation.measure import Settings, choose_real
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.sources.splits import by_base_name
from lvdm.evaluation.sources.videos import VideoSource, open_source
from lvdm.evaluation.text import open_prompted
from lvdm.jobs.evaluate import EvalSettings
from lvdm.types import UserError

UCF = {  # classes by folder; the official lists put groups 1 to 7 into test
    "train": ["Basketball/v_Basketball_g08_c01", "BasketballDunk/v_BasketballDunk_g09_c01", "Archery/v_Archery_g25_c02"],
    "test": ["Basketball/v_Basketball_g01_c02", "Archery/v_Archery_g01_c01", "BasketballDunk/v_BasketballDunk_g02_c01"],
}


def write(folder: Path, frames: int = 16) -> None:
    """A video as a folder of one image, linked under all its names."""
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "000.png")
    for frame in range(1, frames):
        os.link(folder / "000.png", folder / f"{frame:03d}.png")


def flat_order(names: list[str]) -> list[str]:
    """SGV src/training/dataset.py:283-326: folders of frames in one folder, sorted by their paths."""
    return sorted(os.path.join("dataset", os.path.basename(name)) for name in names)


def taken(source: VideoSource, name: str = "styleganv-fvd2048-16f") -> list[str]:
    (clips, *_), _ = choose_real(PROTOCOLS[name], source, Settings(allow_fewer=True))
    return [source.names[clip.video] for clip in clips]


def test_sorted_protocols_take_train_and_test_in_the_order_of_one_flat_folder(tmp_path: Path) -> None:
    """Groups of both parts interleave, and class folders decide nothing: BasketballDunk comes before Basketball_."""
    for part, names in UCF.items():
        for name in names:
            write(tmp_path / part / name)
    for split in ("train", "train+test"):
        found = taken(open_source(tmp_path, split=split))
        expected = flat_order([name for part in split.split("+") for name in UCF[part]])
        assert [f"dataset/{os.path.basename(name)}" for name in found] == expected
    assert found[0] == "test/Archery/v_Archery_g01_c01" and found[2].startswith("test/BasketballDunk")
    shuffled = taken(open_source(tmp_path, split="train+test"), "lvdm-fvd2048")
    assert sorted(shuffled) == sorted(found) and shuffled != found


def test_base_names_leave_out_folders_and_suffixes_of_videos() -> None:
    names = ["b/a.mp4", "a/b.mp4", "c/a-b.mp4", "a/a.mp4", "v1.5", "v1.10"]
    assert [names[at] for at in by_base_name(names)] == ["a/a.mp4", "b/a.mp4", "c/a-b.mp4", "a/b.mp4", "v1.10", "v1.5"]


def test_arrays_stay_in_their_order() -> None:
    source = open_source(np.zeros((12, 16, 8, 8, 3), np.uint8), split="train")
    assert taken(source) == [f"array[{video}]" for video in range(12)]


@pytest.mark.parametrize(
    ("folders", "split", "read", "named"),
    [
        (["sky_train", "sky_test"], "train", ["sky_train"], "train"),
        (["sky_train", "sky_test"], "test", ["sky_test"], "test"),
        (["sky_train", "sky_test"], "train+test", ["sky_train", "sky_test"], "train+test"),
        (["train", "val"], "test", ["val"], "test"),
        (["train", "val", "test"], "test", ["test"], "test"),
        (["val"], "test", ["val"], "test"),
        (["train", "other"], "train", ["train"], "train"),
        (["one", "two"], "train", ["one", "two"], "whole folder"),
        (["night_train", "cat"], "train", ["night_train", "cat"], "whole folder"),  # a film of a train
    ],
)
def test_parts_are_found_by_their_names(folders, split, read, named, tmp_path: Path) -> None:
    for folder in folders:
        write(tmp_path / folder / f"of_{folder}")
    source = open_source(tmp_path, split=split)
    assert (sorted(Path(name).name for name in source.names), source.split) == (sorted(f"of_{one}" for one in read), named)


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("sky_test", "test"), ("val", "test"), ("sky", "whole folder")])
def test_a_folder_of_videos_is_the_part_that_its_name_says(name: str, split: str, tmp_path: Path) -> None:
    write(tmp_path / name / "a")
    assert open_source(tmp_path / name, split="train").split == split


def test_a_missing_or_doubtful_part_is_told(tmp_path: Path) -> None:
    write(tmp_path / "sky_train" / "a")
    with pytest.raises(UserError, match="has no test, and the split is test; add that folder, or change the split"):
        open_source(tmp_path, split="test")
    with pytest.raises(UserError, match="holds sky_train; give the folder of the videos"):
        open_prompted(tmp_path, ["a"], each=None, workers=0)
    write(tmp_path / "city_train" / "b")
    with pytest.raises(UserError, match="holds city_train and sky_train; give one of them"):
        open_source(tmp_path, split="train")


def test_the_split_of_the_data_makes_no_protocol_custom_and_is_recorded(tmp_path: Path, monkeypatch) -> None:
    """By --split as by --set split=, as earlier; a whole folder is called so, with a warning."""
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))
    for folder in ("set/train/a", "set/train/b", "set/test/c", "plain/a", "plain/b"):
        write(tmp_path / folder)
    fake = saved(tmp_path / "fake.npy", toys(2, frames=16, size=8))
    arguments = ["--fake", fake, "--protocol", "motion2048", "--allow-fewer", "--out", str(tmp_path / "it.json")]
    for how in (["--split", "train+test"], ["--set", "split=train+test"]):
        result = result_of(tmp_path / "it.json", *arguments, "--real", str(tmp_path / "set"), *how)
        assert (result["protocol"]["name"], result["num_real"]) == ("motion2048", 3)
        assert result["real"]["split"] == "train+test" and not any("folder" in said for said in result["warnings"])
    result = result_of(tmp_path / "it.json", *arguments, "--real", str(tmp_path / "plain"))
    assert result["real"]["split"] == "whole folder"
    assert any("the real videos are a whole folder" in said for said in result["warnings"])
    for how in (["--split", "test"], ["--split", "train"], ["--set", "split=test"]):
        assert main([*arguments, "--real", str(tmp_path / "plain"), *how]) == 2
    flat = result_of(tmp_path / "it.json", *arguments, "--real", str(tmp_path / "plain"), "--split", "train+test")
    assert (flat["real"]["split"], flat["num_real"]) == ("whole folder", 2), "UCF-101 of StyleGAN-V is one flat folder"
    with pytest.raises(UserError, match="the split is test, and train is the train part alone; leave the split out"):
        EvalSettings(split="test").open_real(tmp_path / "set" / "train", PROTOCOLS["motion2048"])
    assert EvalSettings(split="train").open_real(tmp_path / "set" / "train", PROTOCOLS["motion2048"]).split == "train"
    arrays = result_of(
        tmp_path / "it.json", "--real", fake, "--fake", fake, "--protocol", "tats", *NARROW, "--allow-fewer", *SHORT
    )
    assert arrays["real"]["split"] is None
