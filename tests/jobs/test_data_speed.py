"""Clips a second and memory: cache and videos give the same clips, memory does not grow, and docs/data.md is true."""

import inspect
import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_training import Config, autoencoder_config, data_of, diffusion_config, video_set, write_config, write_videos

from lvdm.cli import benchmark
from lvdm.config import instantiate
from lvdm.config.check import check_node
from lvdm.data import Draw, LatentClips, VideoFolder
from lvdm.jobs.benchmark.cache_speed import measure_cache
from lvdm.jobs.benchmark.data_speed import TURNS, benchmark_data, memory_mib

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["params"]["root"])
def test_every_example_of_the_page_is_a_data_set(example: dict) -> None:
    check_node(example)
    assert isinstance(instantiate(example), VideoFolder | LatentClips)


def test_every_option_and_every_promise_of_the_page_is_there() -> None:
    said = {name for example in EXAMPLES if example["target"].endswith("VideoFolder") for name in example["params"]}
    assert said == set(inspect.signature(VideoFolder).parameters)
    tests = set(re.findall(r"`(test_\w+\.py)`", PAGE.read_text()))
    assert len(tests) >= 5 and all(list((PAGE.parents[1] / "tests").rglob(test)) for test in tests)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), count=4, frames=8)


def test_the_command_and_python_measure_reading(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "a.yaml", autoencoder_config(videos, tmp_path))
    options = ["--stage", "data", "--steps", "2", "--json", str(tmp_path / "x.json")]
    assert benchmark.main([config, *options]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["clips a turn"] == 4 and len(found["clips per second"]["videos"]) == TURNS
    assert len(found["memory (MiB)"]) == TURNS + 1 and "ratios" not in found
    speed = benchmark_data(config, steps=2)
    assert (speed.clips, speed.workers) == (4, found["workers"]) and min(speed.rates["videos"]) > 0
    assert benchmark.main([config, "data.params.train.params.in_memory=true", *options]) == 2
    assert "measures reading from disk" in capsys.readouterr().err


@pytest.fixture(scope="module")
def one_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of just one clip, so that both ways have no choice."""
    return write_videos(tmp_path_factory.mktemp("one_clip"), count=5, frames=28)


def diffusion_on(videos: Path, **params: object) -> Config:
    config = diffusion_config(Path("nowhere"), Path("nowhere"), Path("nowhere"))
    return {**config, "data": data_of(video_set(videos, num_frames=28, **params), None)}


@pytest.mark.parametrize("is_sampled", [False, True])
def test_training_from_the_cache_sees_the_clips_of_training_from_videos(is_sampled: bool, one_clip: Path) -> None:
    config = diffusion_on(one_clip, clips_per_video=2)
    module, data = instantiate(config["model"]), instantiate(config["data"])
    module.sample_posterior, batches = is_sampled, []
    _, speed = measure_cache(data, module, batches.append, torch.device("cpu"), steps=3, batch_size=2)
    assert speed.clips == 6 and len(batches) == 2 * 3 * (TURNS + 1)
    turns = [batches[start : start + 3] for start in range(0, len(batches), 3)]
    for cached, read in zip(sum(turns[::2], []), sum(turns[1::2], []), strict=True):
        mean, std = module.codec.moments(read["video"])
        torch.testing.assert_close(cached["latent"], mean, atol=2e-3, rtol=2e-3)
        assert ("latent_std" in cached) == is_sampled and torch.equal(cached["index"], read["index"])
        if is_sampled:
            torch.testing.assert_close(cached["latent_std"], std, atol=2e-3, rtol=2e-3)
    assert len({tuple(batch["index"].tolist()) for batch in batches}) > 5, "each turn in another order"


def test_the_command_measures_training_from_the_cache_and_from_videos_in_turn(
    one_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(tmp_path / "a.yaml", diffusion_on(one_clip)), tmp_path / "x.json"
    options = ["--stage", "cache", "--steps", "1", "--device", "cpu", "--json", str(out)]
    assert benchmark.main([config, *options, "data.params.num_workers=1"]) == 0
    found = json.loads(out.read_text())
    rates = found["clips per second"]
    assert list(rates) == ["cache", "videos"] and all(len(each) == TURNS and min(each) > 0 for each in rates.values())
    assert (found["clips a turn"], found["workers"], found["precision"]) == (2, 1, "float32")
    assert found["ratios"] == pytest.approx([a / b for a, b in zip(rates["cache"], rates["videos"], strict=True)])
    assert "5 videos encoded" in (said := capsys.readouterr().out) and "cache is" in said and "as fast as videos" in said
    other = write_config(tmp_path / "b.yaml", autoencoder_config(one_clip, tmp_path))
    cached = write_config(tmp_path / "c.yaml", diffusion_config(tmp_path, tmp_path, tmp_path))
    refused = {
        "this config trains an autoencoder": [other],
        "data.params.train is LatentClips": [cached],
        "set random_crop=false and flip=false": [config, "data.params.train.params.flip=true"],
        "set data.params.train.params.in_memory=false": [config, "data.params.train.params.in_memory=true"],
        "--warmup has no effect on --stage cache": [config, "--warmup", "3"],
    }
    for words, arguments in refused.items():
        assert benchmark.main([*arguments, *options]) == 2 and words in capsys.readouterr().err


def test_memory_does_not_grow_with_clips(videos: Path) -> None:
    data = VideoFolder(videos, num_frames=4, size=16, flip=True)
    for epoch in range(375):
        if epoch == 75:
            before = memory_mib()
        for index in range(4):
            data[Draw(epoch, index)]
    assert memory_mib() - before < 4, "MiB after 1,200 further clips; 12 KiB kept of each would be 14"


def hold(path: Path) -> None:
    before = memory_mib()
    library = np.memmap(path, np.uint8, mode="r")
    assert library.max() == 0 and abs(memory_mib() - before) < 1
    held = np.ones(16 * 2**20, np.uint8)
    assert memory_mib() - before == pytest.approx(held.nbytes / 2**20, abs=1)


def test_memory_is_what_is_held_and_no_file_that_is_mapped(tmp_path: Path) -> None:
    """Or it would grow whenever another program that uses the same libraries ends. In a process of its own, for this one may let
    go of what other tests held."""
    (tmp_path / "library").write_bytes(bytes(32 * 2**20))
    alone = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "library",))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
