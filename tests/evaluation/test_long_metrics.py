"""Long videos: each curve on videos whose answer is known in closed form, and the distance to real clips over time."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from lvdm.evaluation.long.frame_curves import FrameFacts, consistency, cosines, frame_curves, frame_facts, normal_flow
from lvdm.evaluation.long.report import DistanceOverTime, LongVideoReport, distance_over_time, mean_slope, slope
from lvdm.evaluation.long.video_clips import ClipFeatures, VideoClips, chunks
from lvdm.evaluation.metrics.frechet import Moments, frechet_distance
from lvdm.evaluation.metrics.kernel import polynomial_mmd
from lvdm.evaluation.protocols.named import get_protocol
from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.types import UserError


def flat(levels: np.ndarray) -> np.ndarray:
    """A video of one colour a frame: (t, 3) -> (t, 16, 16, 3)."""
    return np.broadcast_to(levels.astype(np.uint8)[:, None, None], (len(levels), 16, 16, 3))


def scene(frames: int, *, speed: float = 0.0, size: int = 32, seed: int = 0) -> np.ndarray:
    """A soft wave in each channel, leaning by chance, all moving right by `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    phases, tilts = rng.uniform(0, 6, size=3), rng.uniform(0, 1, size=3)
    moved = x[None] - speed * np.arange(frames)[:, None, None]
    waves = [np.sin(2 * np.pi * (moved + tilt * y[None]) / size + phase) for phase, tilt in zip(phases, tilts, strict=True)]
    return (128 + 60 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def noisy(video: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=video.shape) * deviation
    return (video + noise).clip(0, 255).astype(np.uint8)


def mean(curve: np.ndarray) -> float:
    return float(np.nanmean(curve))


def test_a_video_that_brightens_by_two_a_frame_drifts_by_two_a_frame():
    curves = frame_curves(flat(20 + 2 * np.tile(np.arange(40), (3, 1)).T))
    expected = 2 * (np.arange(40) - 7.5)  # from the middle of the first 16
    np.testing.assert_allclose(curves["brightness_drift"], expected, atol=1e-9)
    np.testing.assert_allclose(curves["color_drift"], np.abs(expected), atol=1e-9)
    assert np.isnan(curves["change"][0]) and (curves["change"][1:] == 2).all()
    np.testing.assert_allclose(curves["vbench_flicker"][1:], 253 / 255)
    found = slope(curves["brightness_drift"], np.arange(40))
    assert (found.per_100_frames, found.standard_error) == pytest.approx((200, 0), abs=1e-9)


def test_a_tint_is_a_drift_of_colour_and_may_leave_brightness_alone():
    colors = np.tile([100, 100, 100], (32, 1))
    colors[16:] += [30, 0, -30]
    curves = frame_curves(flat(colors))
    np.testing.assert_allclose(curves["brightness_drift"], 0, atol=1e-9)
    np.testing.assert_allclose(curves["color_drift"], [0] * 16 + [20] * 16, atol=1e-9)


def test_motion_is_the_speed_of_an_edge_whatever_its_contrast_or_a_flash():
    x = np.arange(64)[None, :, None] * np.ones((16, 1, 3))
    for contrast, speed in ((2, 1.0), (5, 0.4), (5, 2.0)):
        before, after = (200 - contrast * np.abs(x - 31.5 - moved) for moved in (0, speed))  # a roof
        assert normal_flow(before.astype(np.uint8), after.astype(np.uint8)) == pytest.approx(speed, rel=0.06)
        assert normal_flow(before.astype(np.uint8), (before + 9).astype(np.uint8)) == 0


def test_motion_grows_with_speed_and_frozen_frames_have_none():
    speeds = [mean(frame_curves(scene(6, speed=speed))["motion"]) for speed in (0, 0.5, 1, 2)]
    assert speeds[0] == 0
    assert speeds[1:] == sorted(speeds[1:]) and speeds[3] == pytest.approx(2 * speeds[2], rel=0.1)
    assert 0.4 < speeds[2] <= 1.05, "a lower bound of a speed of one pixel"


def test_frozen_frames_keep_everything_and_a_plain_colour_has_no_layout():
    frozen = frame_curves(scene(20))
    assert (frozen["change"][1:] == 0).all() and (frozen["vbench_flicker"][1:] == 1).all()
    np.testing.assert_allclose(frozen["pixel_cosine_first"], 1)
    np.testing.assert_allclose(frozen["pixel_consistency"][1:], 1)
    plain = frame_curves(flat(np.full((3, 3), 90)))
    assert all(np.isnan(plain[name]).all() for name in ("motion", "pixel_cosine_first", "pixel_consistency"))


def test_consistency_is_vbenchs_mean_of_two_cosines_cut_at_zero():
    features = np.array([[2.0, 0.0], [1.0, 1.0], [-3.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(cosines(features), [1, 0.5**0.5, -1, np.nan])
    np.testing.assert_allclose(consistency(features), [np.nan, 0.5**0.5, 0, np.nan])


def test_the_layout_forgets_a_tint_and_knows_a_negative():
    first = scene(1)[0]
    half = first // 2
    curves = frame_curves(np.stack([half, half + np.array([60, 0, 90], dtype=np.uint8), 255 - half]))
    np.testing.assert_allclose(curves["pixel_cosine_first"], [1, 1, -1], atol=1e-9)


def test_what_is_worse_scores_worse_for_the_curve_that_should_see_it():
    clean = scene(40, speed=0.5)
    order = np.random.default_rng(0).permutation(40)
    tinted = clean.copy()
    tinted[20:, ..., 0] //= 2
    curves = {
        name: frame_curves(video)
        for name, video in {"clean": clean, "noise": noisy(clean, 20), "shuffled": clean[order], "tinted": tinted}.items()
    }
    flicker, consistent = ({n: mean(c[name]) for n, c in curves.items()} for name in ("vbench_flicker", "pixel_consistency"))
    assert flicker["clean"] > max(flicker["noise"], flicker["shuffled"])
    assert consistent["clean"] > max(consistent["shuffled"], consistent["noise"])
    assert mean(curves["tinted"]["color_drift"]) > 10 * mean(curves["clean"]["color_drift"])
    assert mean(curves["shuffled"]["motion"]) > 2 * mean(curves["clean"]["motion"])


def test_frames_may_come_from_an_iterator():
    video = scene(5, speed=1)
    for name, curve in frame_curves(iter(video)).items():
        np.testing.assert_array_equal(curve, frame_curves(video)[name])


def test_pieces_of_a_video_make_the_curves_of_the_whole():
    video = scene(50, speed=1)
    pieces = [frame_facts(video[:20]), frame_facts(video[20:21], before=video[19]), frame_facts(video[21:], before=video[20])]
    for name, curve in FrameFacts.joined(pieces).curves().items():
        np.testing.assert_array_equal(curve, frame_curves(video)[name])


def test_a_slope_is_that_of_least_squares_without_what_is_missing():
    frames = np.arange(0, 160, 16)
    values = 3 + 0.2 * frames + np.random.default_rng(0).normal(size=10)
    values[4] = np.nan
    known = stats.linregress(np.delete(frames, 4) / 100, np.delete(values, 4))
    found = slope(values, frames)
    assert (found.per_100_frames, found.standard_error) == pytest.approx((known.slope, known.stderr))
    assert slope(values[:1], frames[:1]).per_100_frames is None
    assert slope(values[:2], frames[:2]).standard_error is None


def test_the_mean_slope_has_its_error_over_the_videos():
    curves = np.array([1.0, 2.0, 6.0])[:, None] * np.arange(50) / 100
    found = mean_slope(np.concatenate([curves, np.full((1, 50), np.nan)]))
    assert (found.per_100_frames, found.standard_error) == pytest.approx((3, stats.sem([1, 2, 6])))
    assert mean_slope(curves[:1]).standard_error is None


def plain(**changes: object) -> EvalProtocol:
    """Frames as they are stored."""
    return get_protocol("custom", resolution=None, resize="none", antialias=True, **changes)


def test_chunks_do_not_overlap_and_what_is_left_over_is_dropped():
    assert chunks(50, plain()) == [range(0, 16), range(16, 32), range(32, 48)] == chunks(48, plain())
    assert chunks(15, plain()) == []
    assert chunks(20, plain(frames=4, fake_stride=2)) == [range(0, 8, 2), range(8, 16, 2)]


@pytest.mark.parametrize("piece", [1, 7, 50])
def test_clips_are_the_same_in_any_pieces_and_go_through_the_network_alone(piece):
    video = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)
    seen = VideoClips(plain(frames=4, fake_stride=2), chunks(50, plain(frames=4, fake_stride=2)))

    def every_frame(clips: torch.Tensor) -> torch.Tensor:
        assert clips.dtype == torch.uint8 and clips.shape == (1, 4, 2, 2, 3)
        return clips[..., 0, 0, 0]

    made = ClipFeatures(every_frame, frames=4)
    for first in range(0, 50, piece):
        made.add(seen.pick(video[first : first + piece], first))
    assert made.features().tolist() == [[start, start + 2, start + 4, start + 6] for start in range(0, 48, 8)]


def test_the_distance_over_time_is_that_of_each_chunk_to_the_clips_of_each_run():
    rng = np.random.default_rng(0)
    real = [rng.normal(size=(80, 3)) for _ in range(2)]
    sets = [rng.normal(size=(30, 3)) + np.array([away, 0, 0]) for away in range(4)]  # drifts away
    fvd = distance_over_time(lambda x, y: frechet_distance(Moments.of(x), Moments.of(y), ddof=1), real, sets)
    kvd = distance_over_time(polynomial_mmd, real, sets)
    for run in range(2):
        for i in range(4):
            assert fvd[run, i] == frechet_distance(Moments.of(real[run]), Moments.of(sets[i]), ddof=1)
            assert kvd[run, i] == polynomial_mmd(real[run], sets[i])
    assert (np.diff(fvd.mean(axis=0)) > 0).all()
    summary = DistanceOverTime(16, {"fvd": fvd, "kvd": kvd}).summary()["fvd"]
    assert (summary.first, summary.last) == (fvd[:, 0].mean(), fvd[:, 3].mean())
    line = stats.linregress([0, 0.16, 0.32, 0.48], fvd.mean(axis=0))
    assert (summary.per_100_frames, summary.standard_error) == pytest.approx((line.slope, line.stderr))
    assert distance_over_time(polynomial_mmd, real, []).shape == (2, 0), "a process may have no chunk"


def test_a_report_writes_a_row_a_chunk_with_the_distances_at_the_mean_and_a_chart(tmp_path):
    videos = {name: frame_curves(scene(40, speed=0.5, seed=seed)) for seed, name in enumerate("abc")}
    over_time = DistanceOverTime(16, {"fvd_n3": np.array([[10.0, 20.0]]), "kvd_n3": np.array([[0.1, 0.2], [0.3, 0.4]])})
    report = LongVideoReport(videos, over_time)
    table, chart = report.write(tmp_path)
    rows = list(csv.DictReader(table.open()))
    shown = [tuple(row[key] for key in ("video", "frame", "fvd_n3", "kvd_n3", "kvd_n3_std")) for row in rows]
    assert "fvd_n3_std" not in rows[0], "of one run"
    assert [row for row in shown if row[0] in ("a", "mean")] == [
        *(("a", "0", "", "", ""), ("a", "16", "", "", ""), ("a", "32", "", "", "")),
        *(("mean", "0", "10", "0.2", "0.1"), ("mean", "16", "20", "0.3", "0.1"), ("mean", "32", "", "", "")),
    ]
    assert float(rows[-1]["motion"]) == pytest.approx(np.mean([curves["motion"][32:].mean() for curves in videos.values()]), 1e-5)
    with Image.open(chart) as image:
        assert image.width == 760 and image.height == 8 * 190
    summary = report.summary()
    assert summary["fvd_n3"].per_100_frames == pytest.approx(62.5) and summary["fvd_n3"].standard_error is None
    assert summary["motion"].mean == pytest.approx(np.mean([curves["motion"][1:].mean() for curves in videos.values()]))
    assert summary["motion"].last == pytest.approx(np.mean([curves["motion"][-16:].mean() for curves in videos.values()]))


def test_a_report_without_features_and_with_videos_of_several_lengths(tmp_path):
    report = LongVideoReport({"long": frame_curves(scene(40)), "short": frame_curves(scene(20)), "one": frame_curves(scene(1))})
    table, chart = report.write(tmp_path)
    rows = list(csv.DictReader(table.open()))
    assert "fvd" not in rows[0] and chart.exists() and len(rows) == 4 * 3
    assert report.summary()["motion"].mean == 0 and "fvd" not in report.summary()
    alone = LongVideoReport({"one": frame_curves(scene(1))})
    alone.write(tmp_path)
    assert alone.summary()["motion"].mean is None and alone.summary()["motion"].per_100_frames is None


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: frame_curves([]), "without a frame"),
        (lambda: frame_curves(np.zeros((2, 16, 16, 3), dtype=np.float32)), "frame 0 is float32"),
        (lambda: frame_curves(np.zeros((2, 16, 16), dtype=np.uint8)), r"frame 0 is uint8 \(16, 16\)"),
        (lambda: frame_curves(np.zeros((2, 16, 8, 3), dtype=np.uint8)), "16 pixels or more a side; got 8x16"),
        (lambda: frame_curves([scene(1)[0], scene(1, size=16)[0]]), "frame 1 is .* have one size"),
    ],
)
def test_what_cannot_be_measured_is_refused(made, words):
    with pytest.raises(UserError, match=words):
        made()
