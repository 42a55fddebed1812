"""A user's own layout, split, reading option and data set, named in YAML by the module that holds them."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from video_files import frames_seen, write_video

from lvdm.config import instantiate
from lvdm.config.check import check_node
from lvdm.data import VideoData, VideoFolder
from lvdm.types import UserError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
MODULE, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)  # the page's own examples
PLAIN = """
class Plain(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_data.py").write_text(MODULE + PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_data"


def build(node: dict, own: str) -> object:
    check_node(node, allow=[own])
    return instantiate(node, allow=[own])


def test_a_layout_a_split_and_a_reading_option_of_ones_own(own: str, tmp_path: Path) -> None:
    for name in ("ann/a", "ann/b", "bob/c"):
        write_video(tmp_path / "v" / f"{name}.mp4", length=20)  # at 12 frames per second
    params = {"root": str(tmp_path / "v"), "num_frames": 4, "size": 8, "random_clip": False}
    parts = {"layout": {"target": f"{own}.ByActor"}, "split": {"target": f"{own}.EverySecond"}}
    parts["reading"] = {"target": f"{own}.SkipIntro", "params": {"fps": 6, "seconds": 1}}
    data = build({"target": "lvdm.data.VideoFolder", "params": {**params, **parts}}, own)
    assert data.names == ["ann/a.mp4", "bob/c.mp4"] and [item["label"] for item in data] == [0, 1]
    assert frames_seen(data[0]["video"]) == [12, 14, 16, 18]
    assert data.fingerprint() != VideoFolder(**params, layout=data.layout, split=data.split).fingerprint()


def test_a_data_set_of_ones_own(own: str) -> None:
    params = {"train": {"target": f"{own}.Noise", "params": {"length": 4}}, "batch_size": 2}
    data = build({"target": "lvdm.data.VideoData", "params": params}, own)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == [0, 1, 2, 3]
    assert batches[0]["video"].shape == (2, 3, 8, 64, 64)


def test_the_use_from_python_on_the_page_runs(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ann/a", "bob/c"):
        write_video(tmp_path / "data" / "actors" / f"{name}.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(USE, names)
    assert names["batch"]["video"].shape == (2, 3, 8, 64, 64) and sorted(names["batch"]["label"].tolist()) == [0, 1]


def test_a_data_set_without_the_contract_is_refused_with_what_it_lacks(own: str) -> None:
    node = {"target": "lvdm.data.VideoData", "params": {"train": {"target": f"{own}.Plain"}, "batch_size": 1}}
    with pytest.raises(UserError, match=r"expected a target of kind ClipSet \(a class with prepare, fingerprint\)"):
        check_node(node, allow=[own])

    class Plain(Dataset):
        pass

    with pytest.raises(UserError, match="Plain is no ClipSet: it lacks prepare, fingerprint; add what is missing"):
        VideoData(Plain(), batch_size=1)
