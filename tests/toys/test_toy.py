"""The toys: known motion, files that are the same to the byte, scorers that know real from broken."""

import csv
import json
from pathlib import Path

import decord
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lvdm.cli import make_toy, score_toy
from lvdm.evaluation import binned, mean_curves, write_csv
from lvdm.toys import clouds as cloud_data
from lvdm.toys import discs as disc_data
from lvdm.toys.clouds_score import score_clouds
from lvdm.toys.discs_score import score_discs
from lvdm.toys.scene import ToyVideo, video_generator
from lvdm.toys.scores import SCORERS, score_videos
from lvdm.toys.write import KINDS, write_mp4

SEEDS = (0, 1, 2)
TINY = ["--videos", "3", "--val", "1", "--frames", "10", "--size", "32"]


def drawn(kind: str, index: int, frames: int = 160, size: int = 64) -> ToyVideo:
    return KINDS[kind](video_generator(11, "train", index), frames, size)


def as_generated(frames: np.ndarray) -> np.ndarray:
    """What an autoencoder of less than 28 dB would leave: blurred and noisy."""
    noise = np.random.default_rng(0).normal(0, 4, frames.shape)
    return np.rint(np.clip(ndimage.gaussian_filter(frames.astype(float), (0, 0.9, 0.9, 0)) + noise, 0, 255)).astype(np.uint8)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The scenes


def test_discs_keep_their_speed_stay_within_the_walls_and_never_overlap():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        speeds, heading = rng.uniform(0.19, 0.38, 2), rng.uniform(0, 2 * np.pi, 2)
        velocities = (speeds[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)).tolist()
        path = disc_data.trajectory([[15.0, 20.0], [45.0, 40.0]], velocities, 500, 64)
        hops = np.linalg.norm(np.diff(path, axis=0), axis=-1)
        assert path.min() >= 0.18 * 64 - 1e-9 and path.max() <= 0.82 * 64 + 1e-9
        assert np.linalg.norm(path[:, 0] - path[:, 1], axis=-1).min() >= 2 * 0.18 * 64 - 1e-9
        assert (hops <= speeds + 1e-9).all()
        assert (np.abs(hops - speeds) < 1e-9).mean() > 0.9  # the rest are frames with a turn in them


def test_a_lone_disc_is_reflected_by_a_wall_as_light_is():
    path = disc_data.trajectory([[20.0, 20.0], [50.0, 50.0]], [[-0.3, 0.1], [0.0, 0.0]], 100, 64)[:, 0]
    radius = 0.18 * 64
    unfolded = 20.0 - 0.3 * np.arange(100)
    assert np.abs(path[:, 0] - (radius + np.abs(unfolded - radius))).max() < 0.3 / disc_data.SUBSTEPS * 2
    assert np.allclose(path[:, 1], 20.0 + 0.1 * np.arange(100))


def test_discs_that_meet_head_on_go_back_with_their_own_speeds():
    path = disc_data.trajectory([[15.0, 32.0], [49.0, 32.0]], [[0.2, 0.0], [-0.35, 0.0]], 40, 64)
    assert np.allclose(path[-1] - path[-2], [[-0.2, 0.0], [0.35, 0.0]])


def test_a_drawn_disc_has_its_area_its_colour_and_its_place():
    place = np.array([[[20.3, 24.8], [45.0, 44.0]]])
    image = disc_data.draw(place, np.zeros((64, 3)), 64)[0] / 255
    cover = image[:40, :36, 0] / disc_data.COLORS["orange"][0]
    assert cover.sum() == pytest.approx(np.pi * (0.18 * 64) ** 2, rel=0.005)
    y, x = ndimage.center_of_mass(cover)
    assert (x + 0.5, y + 0.5) == pytest.approx((20.3, 24.8), abs=0.02)
    assert np.allclose(image[44, 45], disc_data.COLORS["cyan"], atol=1 / 255)


def test_clouds_drift_by_exactly_their_velocity():
    amplitudes = cloud_data.wave_amplitudes(np.random.default_rng(0))
    noise = cloud_data.drifting_noise(amplitudes, np.array([1.0, -2.0]), 4, 32)
    assert np.allclose(noise[1:, :-2, 1:], noise[:-1, 2:, :-1])
    wide = cloud_data.drifting_noise(amplitudes, np.array([64.0, 0.0]), 2, 32)
    assert np.allclose(wide[0], wide[1])  # the sky is twice the frame wide, and goes round


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_depends_on_seed_split_and_index_alone(kind):
    again = [KINDS[kind](video_generator(11, "train", i), 4, 32).frames for i in (1, 0)]
    assert np.array_equal(again[0], drawn(kind, 1, 4, 32).frames) and np.array_equal(again[1], drawn(kind, 0, 4, 32).frames)
    assert not np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], KINDS[kind](video_generator(11, "val", 1), 4, 32).frames)


def test_classes_and_captions_say_what_is_seen():
    for index in range(8):
        discs = drawn("discs", index, 2)
        top = discs.frames[0, 0].astype(int).mean(0)
        fitting = (("red", "yellow", "purple"), ("green", "yellow", "teal"), ("blue", "teal", "purple"))[int(top.argmax())]
        assert disc_data.HUES[discs.label] in fitting and f"dim {disc_data.HUES[discs.label]}" in discs.caption
        clouds = drawn("clouds", index, 2)
        goes_right = clouds.truth["velocity"][0] > 0
        assert ("right" in clouds.caption) == goes_right == bool(clouds.label % 2)
        assert list(cloud_data.SKIES)[clouds.label // 2] in clouds.caption


# The files


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_the_same_to_the_byte_for_any_number_of_workers(kind, tmp_path):
    for workers in ("1", "3"):
        assert make_toy.main([str(tmp_path / workers), "--kind", kind, *TINY, "--workers", workers]) == 0
    one, three = files_of(tmp_path / "1"), files_of(tmp_path / "3")
    assert one == three
    assert sum(name.endswith(".mp4") for name in one) == 4


def test_lines_beside_the_videos_name_them_all(tmp_path):
    make_toy.main([str(tmp_path / "toy"), *TINY])
    lines = [json.loads(line) for line in (tmp_path / "toy" / "train" / "metadata.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["caption", "file", "fps", "label", "seed"]] * 3
    for line in lines:
        video = decord.VideoReader(str(tmp_path / "toy" / "train" / line["file"]))
        truth = np.load(tmp_path / "toy" / "train" / "truth" / line["file"].replace(".mp4", ".npz"))
        assert (len(video), video[0].shape, video.get_avg_fps()) == (10, (32, 32, 3), line["fps"])
        assert truth["position"].shape == (10, 2, 2)


def test_a_complete_data_set_is_left_alone_and_a_broken_off_one_is_completed(tmp_path, capsys):
    out = tmp_path / "toy"
    make_toy.main([str(out), *TINY])
    whole = files_of(out)
    changed = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert make_toy.main([str(out), *TINY]) == 0
    assert "complete already" in capsys.readouterr().out
    assert changed == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "train" / "000001.mp4").unlink()
    (out / "train" / "metadata.jsonl").unlink()
    assert make_toy.main([str(out), *TINY]) == 0
    assert files_of(out) == whole


def test_another_data_set_or_foreign_files_are_never_overwritten(tmp_path, capsys):
    make_toy.main([str(tmp_path / "toy"), *TINY])
    before = files_of(tmp_path / "toy")
    assert make_toy.main([str(tmp_path / "toy"), *TINY, "--seed", "1"]) == 2
    assert "'seed': 0" in capsys.readouterr().err
    assert files_of(tmp_path / "toy") == before
    (tmp_path / "thesis.txt").write_text("words")
    assert make_toy.main([str(tmp_path), *TINY]) == 2
    assert files_of(tmp_path)["thesis.txt"] == b"words" and not (tmp_path / "train").exists()


@pytest.mark.parametrize("wrong", [["--size", "33"], ["--videos", "0"], ["--workers", "0"], ["--seed", "-1"]])
def test_impossible_arguments_are_refused_before_anything_is_made(wrong, tmp_path):
    assert make_toy.main([str(tmp_path / "toy"), *TINY, *wrong]) == 2
    assert not (tmp_path / "toy").exists()


# The scorers


@pytest.mark.parametrize("kind", KINDS)
def test_real_videos_score_at_least_99_hundredths(kind, tmp_path):
    summaries = []
    for seed in SEEDS:
        frames = drawn(kind, seed).frames
        for i, version in enumerate((frames, as_generated(frames))):
            write_mp4(tmp_path / f"{i}.mp4", version, 16)
            read = decord.VideoReader(str(tmp_path / f"{i}.mp4"))[:].asnumpy()
            summaries.append(SCORERS[kind](read).summary(last=100))
    mean = {key: np.mean([summary[key] for summary in summaries]) for key in summaries[0]}
    assert mean["drift"] < 0.01
    assert min(mean[key] for key in ("ok", "ok_last100", "motion", "score")) >= 0.99, mean


def without(video: ToyVideo, disc: int) -> np.ndarray:
    """The disc painted over with the ground."""
    gone = near(video.truth["position"][:, disc], 13.0)
    ground = np.rint(video.truth["background"] * 255).astype(np.uint8)[None, :, None]
    return np.where(gone, ground, video.frames)


def with_a_second(video: ToyVideo) -> np.ndarray:
    """An orange disc more, mirrored through the middle."""
    orange = np.rint(np.array(disc_data.COLORS["orange"]) * 255).astype(np.uint8)
    return np.where(near(64 - video.truth["position"][:, 0], 11.5), orange, video.frames)


def near(center: np.ndarray, radius: float) -> np.ndarray:
    at = np.arange(64) + 0.5
    inside = np.hypot(at[None, None] - center[:, 0, None, None], at[None, :, None] - center[:, 1, None, None]) < radius
    return inside[..., None]


BROKEN = {
    "frozen": ("motion", lambda video: np.repeat(video.frames[:1], len(video.frames), axis=0)),
    "shuffled": ("motion", lambda video: video.frames[np.random.default_rng(0).permutation(len(video.frames))]),
    "six times too slow": ("motion", lambda video: np.repeat(video.frames, 6, axis=0)[: len(video.frames)]),
    "red and blue exchanged": ("ok", lambda video: video.frames[..., ::-1]),
    "hues turned": ("ok", lambda video: video.frames[..., [1, 2, 0]]),
    "grey": ("ok", lambda video: np.repeat(video.frames.mean(-1, keepdims=True), 3, -1).astype(np.uint8)),
    "almost dark": ("ok", lambda video: (video.frames * 0.2).astype(np.uint8)),
}
BROKEN_DISCS = {
    "orange removed": ("ok", lambda video: without(video, 0)),
    "cyan removed": ("ok", lambda video: without(video, 1)),
    "orange doubled": ("ok", with_a_second),
}
BROKEN_CLOUDS = {
    "no clouds": ("ok", lambda video: np.repeat(video.frames.min(2, keepdims=True), 64, axis=2)),
    "there and back, two frames each": ("motion", lambda video: video.frames[np.abs((np.arange(160) // 2) % 8 - 4) + 60]),
}


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_DISCS])
def test_broken_discs_score_low_in_what_is_broken(name):
    aspect, damage = {**BROKEN, **BROKEN_DISCS}[name]
    found = score_discs(damage(drawn("discs", 3))).summary()
    assert found[aspect] < 0.1 and found["score"] < 0.1, found


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_CLOUDS])
def test_broken_clouds_score_low_in_what_is_broken(name):
    aspect, damage = {**BROKEN, **BROKEN_CLOUDS}[name]
    found = score_clouds(damage(drawn("clouds", 4))).summary()
    assert found[aspect] < 0.3 and found["score"] < 0.3, found


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_scene_is_drift(kind):
    first, second = (next(v for v in (drawn(kind, i, 40) for i in range(20)) if v.label // 2 == half).frames for half in (0, 2))
    drift = SCORERS[kind](np.concatenate([first, second])).drift
    assert drift[:40].max() < 0.01 and drift[40:].min() > 0.03


def test_measured_motion_is_the_true_motion():
    discs = drawn("discs", 0, 60)
    hops = np.linalg.norm(np.diff(discs.truth["position"], axis=0), axis=-1).max(0)
    measured = score_discs(discs.frames).more
    assert np.median(measured["speed_orange"]) == pytest.approx(hops[0], rel=0.05)
    assert np.median(measured["speed_cyan"]) == pytest.approx(hops[1], rel=0.05)
    for index in range(4):
        clouds = drawn("clouds", index, 60)
        vx, vy = clouds.truth["velocity"]
        found = score_clouds(clouds.frames)
        assert found.speed == pytest.approx(np.hypot(vx, vy), rel=0.12)
        turned = np.radians(found.more["heading"]) - np.arctan2(vy, vx)
        assert np.degrees(np.abs(np.angle(np.exp(1j * turned)))).max() < 4


# Curves and the command


def test_bins_and_means_leave_out_what_was_not_measured(tmp_path):
    nan = np.nan
    assert binned(np.array([1.0, 3.0, nan, 5.0, nan]), 2) == pytest.approx([2.0, 5.0, nan], nan_ok=True)
    videos = {"a": {"speed": np.array([1.0, nan, 3.0])}, "b": {"speed": np.array([3.0, 5.0])}}
    assert mean_curves(videos)["speed"] == pytest.approx([2.0, 5.0, 3.0])
    write_csv(tmp_path / "curves.csv", videos)
    rows = list(csv.reader((tmp_path / "curves.csv").open()))
    assert rows[:3] == [["video", "frame", "speed"], ["a", "0", "1"], ["a", "1", ""]]
    assert rows[-3:] == [["mean", "0", "2"], ["mean", "1", "5"], ["mean", "2", "3"]]


def test_the_command_scores_a_folder_and_draws_curves(tmp_path, capsys):
    make_toy.main([str(tmp_path / "toy"), "--videos", "2", "--val", "0", "--frames", "40"])
    arguments = ["--last", "10", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "scores.json")]
    assert score_toy.main([str(tmp_path / "toy" / "train"), *arguments]) == 0
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["mean"]["ok"] == 1.0 and report["mean"]["ok_last10"] == 1.0 and report["spread"]["ok"] == 0.0
    assert sorted(report["videos"]) == ["000000", "000001"]
    assert len((tmp_path / "out" / "curves.csv").read_text().splitlines()) == 1 + 3 * 40
    assert Image.open(tmp_path / "out" / "curves.png").width == 760
    assert "ok_last10" in capsys.readouterr().out
    files = sorted((tmp_path / "toy" / "train").glob("*.mp4"))
    by_path = score_videos([str(files[0].parent)], "discs", last=10)
    by_array = score_videos([decord.VideoReader(str(path))[:].asnumpy() for path in files], "discs", last=10)
    assert by_path.videos == report["videos"] and by_path.mean == by_array.mean == report["mean"]


def test_what_cannot_be_scored_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.mp4").write_text("not a video")
    write_mp4(tmp_path / "short.mp4", np.zeros((3, 32, 32, 3), np.uint8), 16)
    for name, said in {"empty": "no mp4", "missing.mp4": "no file", "words.mp4": "decord", "short.mp4": "3"}.items():
        assert score_toy.main([str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error
