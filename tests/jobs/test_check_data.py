"""scripts/train.py --check-data: what is there, known from how it was made; and what a run says of videos that it skips."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_training import autoencoder_config, data_of, diffusion_config, video_set, write_config, write_videos

from lvdm.cli import train


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Six of 40 frames at 8 a second, 32 x 32; one of 5 frames and one that is none."""
    folder = write_videos(tmp_path / "videos", count=6)
    write_videos(tmp_path / "short", count=1, frames=5)
    (tmp_path / "short" / "0.mp4").rename(folder / "6.mp4")
    (folder / "7.mp4").write_bytes(b"no video")
    (folder / "metadata.jsonl").write_text('{"file": "0.mp4", "caption": "red stripes", "label": 1}\n')
    return folder


def check(config: dict, tmp_path: Path) -> int:
    return train.main([write_config(tmp_path / "a.yaml", config), "--check-data", "--json", str(tmp_path / "found.json")])


def test_the_report_says_what_is_there(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = autoencoder_config(videos, tmp_path / "runs")
    config["data"] = data_of(video_set(videos, max_broken=0.3), None)
    assert check(config, tmp_path) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())["check_data"]["train"]
    assert (found["videos"], found["of"], found["frames"]) == (6, 8, 240)
    assert found["hours"] == pytest.approx(240 / 8 / 3600)
    assert found["length"] == {"least": 40, "median": 40, "most": 40}
    assert found["sizes"] == {"32x32": 6} and found["rates"] == {"8": 6}
    assert found["captions"] == 1 and found["classes"] == 1
    assert set(found["skipped"]) == {"6.mp4", "7.mp4"}
    assert "clip needs 8 frames" in said and "7.mp4: Invalid data" in said
    sheet = Path(found["contact_sheet"])
    assert [sheet] == list((tmp_path / "runs").iterdir()), "no run is left, only the sheet"
    with Image.open(sheet) as image:
        assert image.size == (8 * 18 - 2, 6 * 18 - 2)  # six samples of eight frames of 16 pixels, two between them


def test_too_many_broken_videos_are_all_named_before_the_refusal(videos: Path, tmp_path: Path, capsys) -> None:
    config = autoencoder_config(videos, tmp_path / "runs")
    assert check(config, tmp_path) == 2
    captured = capsys.readouterr()
    assert "6.mp4" in captured.out and "7.mp4" in captured.out
    assert "2 of 8 videos of train (max_broken=0.2), 2 of 8 videos of val" in captured.err.splitlines()[-1]


def test_cached_latents_are_no_videos(tmp_path: Path, capsys) -> None:
    assert check(diffusion_config(tmp_path, tmp_path / "runs", tmp_path), tmp_path) == 2
    assert "data.params.train is LatentClips" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_names_each_skipped_file_once_however_often_it_starts(videos: Path, tmp_path: Path) -> None:
    config = autoencoder_config(videos, tmp_path / "runs")
    config["data"] = data_of(
        video_set(videos, max_broken=0.3), video_set(videos, max_broken=0.3, random_clip=False), num_workers=1
    )
    for steps in (2, 4):
        assert train.main([write_config(tmp_path / "a.yaml", config), f"trainer.max_steps={steps}"]) == 0
    lines = (tmp_path / "runs" / "a" / "skipped_files.txt").read_text().splitlines()
    assert len(lines) == 2 and all(name in line for name, line in zip(("6.mp4", "7.mp4"), lines, strict=True))
    assert torch.load(tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
