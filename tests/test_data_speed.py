"""Clips a second and memory: the published way shows the same clip, memory does not grow, and docs/data.md is true."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_training import autoencoder_config, write_config, write_videos

from lvdm.cli import benchmark
from lvdm.cli.data_speed import memory_mib, plain_clip
from lvdm.config import instantiate
from lvdm.config.check import check_node
from lvdm.data import Draw, LatentClips, VideoFolder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data.md"
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["params"]["root"])
def test_every_example_of_the_page_is_a_data_set(example: dict) -> None:
    check_node(example)
    assert isinstance(instantiate(example), VideoFolder | LatentClips)


def test_every_option_and_every_promise_of_the_page_is_there() -> None:
    said = {name for example in EXAMPLES if example["target"].endswith("VideoFolder") for name in example["params"]}
    assert said == set(inspect.signature(VideoFolder).parameters)
    tests = set(re.findall(r"`(test_\w+\.py)`", PAGE.read_text()))
    assert len(tests) >= 5 and all((PAGE.parents[1] / "tests" / test).exists() for test in tests)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), count=4, frames=8)


def test_the_published_way_shows_the_same_clip(videos: Path) -> None:
    data = VideoFolder(videos, num_frames=8, size=16)  # the only clip of each video, so that both draw the same
    for index in range(4):
        ours, plain = data[index]["video"], plain_clip(data, Draw(0, index))
        assert (ours - plain).abs().max() < 2.1 / 127.5  # rounded to whole levels once along each axis


def test_the_command_measures_both_ways_in_turn(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "a.yaml", autoencoder_config(videos, tmp_path))
    options = ["--stage", "data", "--steps", "2", "--json", str(tmp_path / "x.json")]
    assert benchmark.main([config, "--published", *options]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    rates = found["clips per second"]
    assert found["clips a turn"] == 4 and len(rates["ours"]) == len(rates["published"]) == 4
    assert found["ratios"] == pytest.approx([a / b for a, b in zip(rates["ours"], rates["published"], strict=True)])
    assert benchmark.main([config, "data.params.train.params.in_memory=true", *options]) == 2
    assert benchmark.main([config, "--published", "--stage", "train"]) == 2
    said = capsys.readouterr().err
    assert "measures reading from disk" in said and "--published has no effect on --stage train" in said


def test_memory_does_not_grow_with_clips(videos: Path) -> None:
    data = VideoFolder(videos, num_frames=4, size=16, flip=True)
    for epoch in range(375):
        if epoch == 75:
            before = memory_mib()
        for index in range(4):
            data[Draw(epoch, index)]
    assert memory_mib() - before < 4, "MiB after 1,200 further clips; 12 KiB kept of each would be 14"


def test_memory_is_what_is_held_and_no_file_that_is_mapped(tmp_path: Path) -> None:
    """Or it would grow whenever another program that uses the same libraries ends."""
    (tmp_path / "library").write_bytes(bytes(32 * 2**20))
    before = memory_mib()
    library = np.memmap(tmp_path / "library", np.uint8, mode="r")
    assert library.max() == 0 and abs(memory_mib() - before) < 1
    held = np.ones(16 * 2**20, np.uint8)
    assert memory_mib() - before == pytest.approx(held.nbytes / 2**20, abs=1)
