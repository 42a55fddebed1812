"""A user's own layout, split, reading option and data set, named in YAML by the module that holds them."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from video_files import frames_seen, write_video

from lvdm.config import instantiate
from lvdm.config.check import check_node
from lvdm.data import VideoData, VideoFolder
from lvdm.types import UserError

MODULE = """
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from lvdm.data import ReadingOptions
from lvdm.data.layouts.listing import Description, Video
from lvdm.data.loading import as_draw


class Numbered:
    def find(self, root):
        return [Video(f"{label}.mp4", root / f"{label}.mp4", Description(label=label)) for label in range(3)]


class EverySecond:
    def choose(self, names):
        return names[::2]


@dataclass(frozen=True)
class Backwards(ReadingOptions):
    backwards: bool = True

    def view(self, video):
        return Reversed(super().view(video)) if self.backwards else super().view(video)


class Reversed:
    def __init__(self, video):
        self.video, self.num_frames, self.fps = video, video.num_frames, video.fps

    def read(self, frames):
        return self.video.read([self.num_frames - 1 - frame for frame in frames])


class Noise(Dataset):
    def __init__(self, length: int):
        self.length = length

    def prepare(self):
        pass

    def fingerprint(self):
        return f"noise {self.length}"

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        epoch, index = as_draw(key, self.length)
        return {"video": torch.full((3, 8, 16, 16), index / 100), "index": index, "fps": torch.tensor(8.0)}


class Plain(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_parts"


def build(node: dict, own: str) -> object:
    check_node(node, allow=[own])
    return instantiate(node, allow=[own])


def test_a_layout_a_split_and_a_reading_option_of_ones_own(own: str, tmp_path: Path) -> None:
    for name in range(3):
        write_video(tmp_path / "v" / f"{name}.mp4", length=12)
    params = {"root": str(tmp_path / "v"), "num_frames": 4, "size": 8, "random_clip": False}
    parts = {"layout": {"target": f"{own}.Numbered"}, "split": {"target": f"{own}.EverySecond"}}
    parts["reading"] = {"target": f"{own}.Backwards", "params": {"fps": 6}}
    data = build({"target": "lvdm.data.VideoFolder", "params": {**params, **parts}}, own)
    assert data.names == ["0.mp4", "2.mp4"] and [item["label"] for item in data] == [0, 2]
    assert frames_seen(data[0]["video"]) == [8, 6, 4, 2]
    assert data.fingerprint() != VideoFolder(**params, layout=data.layout, split=data.split).fingerprint()


def test_a_data_set_of_ones_own(own: str) -> None:
    node = {
        "target": "lvdm.data.VideoData",
        "params": {"train": {"target": f"{own}.Noise", "params": {"length": 4}}, "batch_size": 2},
    }
    data = build(node, own)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == [0, 1, 2, 3]
    assert batches[0]["video"].shape == (2, 3, 8, 16, 16)


def test_a_data_set_without_the_contract_is_refused_with_what_it_lacks(own: str) -> None:
    node = {"target": "lvdm.data.VideoData", "params": {"train": {"target": f"{own}.Plain"}, "batch_size": 1}}
    with pytest.raises(UserError, match=r"expected a target of kind ClipSet \(a class with prepare, fingerprint\)"):
        check_node(node, allow=[own])

    class Plain(Dataset):
        pass

    with pytest.raises(UserError, match="Plain is no ClipSet, because it has no prepare, fingerprint; add what is missing"):
        VideoData(Plain(), batch_size=1)
