"""`eval.py reconstruction`: codecs whose loss is known, scores from numpy, R-FVD from features by hand, one and two processes."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torchvision
from tiny_codecs import ALLOW, in_two_processes, write_codec
from tiny_training import AUTOENCODER, UNET

from lvdm.checkpoints.model_file import read_model, save_model
from lvdm.cli.eval import main
from lvdm.config import instantiate
from lvdm.evaluation import Moments, frechet_distance, polynomial_mmd
from lvdm.evaluation.reconstruction import clip_scores
from lvdm.evaluation.results.result import read_result
from lvdm.jobs.evaluate import EvalSettings
from lvdm.jobs.evaluate_reconstruction import evaluate_reconstruction, of_held_out
from lvdm.models.features.extractors import make_extractor
from lvdm.models.features.perceptual import TRUNKS, lpips_distance
from lvdm.models.features.weights import KNOWN, WeightsFile
from lvdm.sampling.save_video import save_video

NUM, WIDTH = 4, 0.0625
FAST = ["--features", "random", "--feature-width", str(WIDTH), "--set", "resolution=16", "frames=12", "--allow-fewer"]
EXTRACTOR = cache(make_extractor)
Report = dict[str, Any]


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """uint8 (n, t, h, w, 3): smooth, with every level but the darkest and the brightest."""
    t, y, x = np.meshgrid(np.arange(12), np.arange(16), np.arange(16), indexing="ij")
    waves = [127 + 110 * np.sin(0.4 * x + 0.2 * (number + 1) * t + 0.3 * number * y) for number in range(NUM)]
    return np.stack([np.stack([wave, np.roll(wave, 3, axis=1), 255 - wave], -1) for wave in waves]).astype(np.uint8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def at(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, clips: np.ndarray) -> Path:
    """A working folder with the clips; their features are kept from test to test, and so is the network that makes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LVDM_CACHE", str(kept))
    monkeypatch.setattr("lvdm.jobs.evaluate.make_extractor", EXTRACTOR)
    np.save("clips.npy", clips)
    return tmp_path


def measured(*options: str, lpips: str = "none") -> Report:
    arguments = ["--real", "clips.npy", *FAST, *options, "--lpips", lpips, "--device", "cpu", "--json", "r.json"]
    assert main(["reconstruction", *arguments]) == 0
    return json.loads(Path("r.json").read_text())


def refused(capsys: Any, *options: str) -> str:
    capsys.readouterr()
    assert main(["reconstruction", "--device", "cpu", *options]) == 2
    return capsys.readouterr().err


def values(report: Report) -> dict[str, float]:
    return {name: each["value"] for name, each in report["metrics"].items()}


def features(clips: np.ndarray) -> np.ndarray:
    return EXTRACTOR("random-i3d", device=torch.device("cpu"), seed=0, width=WIDTH)(torch.from_numpy(clips)).numpy()


def test_a_codec_that_loses_nothing_has_the_best_of_every_score(at: Path) -> None:
    report = measured("--model", str(write_codec(at / "ae.safetensors", offset=0.0)), *ALLOW)
    found = values(report)
    assert found["psnr_clip_n4"] == pytest.approx(10 * np.log10(4 / 1e-10)) and found["psnr_frame_n4"] == 100
    assert found["ssim_n4"] == pytest.approx(1) and report["metrics"]["ssim_n4"]["std"] == pytest.approx(0, abs=1e-6)
    x = features(np.load("clips.npy"))
    assert found["r_fvd_n4"] < 1e-6 * np.trace(np.cov(x, rowvar=False))
    assert (report["num_real"], report["num_fake"], report["fake"]["kind"]) == (NUM, NUM, "reconstruction")
    assert report["protocol"]["name"] == "custom (from pvdm-fvd2048)" and len(report["fake"]["sha256"]) == 64


@pytest.mark.parametrize("quantise", ["truncate", "round"])
def test_a_codec_that_brightens_has_the_scores_of_numpy_and_the_r_fvd_of_its_levels(at: Path, quantise: str) -> None:
    """PSNR of floats that are clamped and not rounded; features of levels that are cut off or rounded."""
    model = write_codec(at / "ae.safetensors", offset=0.3)
    report = measured("--model", str(model), *ALLOW, "--set", f"quantise={quantise}", "metrics=[fvd,kvd]", "ddof=1")
    clips = np.load("clips.npy")
    video = clips / 127.5 - 1
    made = np.clip(video + 0.3, -1, 1)
    error = np.square(video - made)
    of_clips = 10 * np.log10(4 / error.mean((1, 2, 3, 4)))
    of_frames = (10 * np.log10(4 / error.mean((2, 3, 4)))).mean(1)
    for name, expected in (("psnr_clip_n4", of_clips), ("psnr_frame_n4", of_frames)):
        assert report["metrics"][name]["value"] == pytest.approx(expected.mean(), rel=1e-5)
        assert report["metrics"][name]["std"] == pytest.approx(expected.std(), rel=1e-2, abs=1e-5)
        assert report["metrics"][name]["over"] == "clips"
    levels = 127.5 * (made + 1) + (0.5 if quantise == "round" else 1 / 1024)
    x, y = features(clips), features(np.floor(levels).clip(0, 255).astype(np.uint8))
    expected = frechet_distance(Moments.of(x), Moments.of(y), ddof=1)
    assert values(report)["r_fvd_n4"] == pytest.approx(expected, rel=1e-4) and expected > 0
    assert values(report)["r_kvd_n4"] == pytest.approx(polynomial_mmd(x, y), rel=1e-4)
    assert 0 < values(report)["ssim_n4"] < 0.999


def test_only_what_random_features_made_is_not_comparable(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = measured("--model", str(write_codec(at / "ae.safetensors", offset=0.1)), *ALLOW)
    labels = {name: each.get("label") for name, each in report["metrics"].items()}
    assert labels == {**dict.fromkeys(("psnr_clip_n4", "psnr_frame_n4", "ssim_n4")), "r_fvd_n4": "not comparable"}
    assert "has random weights: R-FVD is not comparable" in report["warnings"][0]
    assert capsys.readouterr().out.count("(not comparable)") == 2, "a row of markdown and one of LaTeX"


def test_a_resample_draws_both_of_a_clip_together(at: Path) -> None:
    """Of a codec without loss the R-FVD of every resample is 0; drawn apart they would differ."""
    report = measured("--model", str(write_codec(at / "ae.safetensors", offset=0.0)), *ALLOW, "--bootstrap", "6")
    x = features(np.load("clips.npy"))
    low, high = report["metrics"]["r_fvd_n4"]["interval"]
    assert max(abs(low), abs(high)) < 1e-6 * np.trace(np.cov(x, rowvar=False))
    other = measured("--model", str(write_codec(at / "ae.safetensors", offset=0.2)), *ALLOW, "--bootstrap", "6")
    low, high = other["metrics"]["psnr_clip_n4"]["interval"]
    assert low < other["metrics"]["psnr_clip_n4"]["value"] < high and other["metrics"]["psnr_clip_n4"]["level"] == 0.95


def test_lpips_is_told_by_the_network_that_made_it(at: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LVDM_WEIGHTS", str(at))
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    model = write_codec(at / "ae.safetensors", offset=0.3)
    big = np.load("clips.npy").repeat(2, axis=2).repeat(2, axis=3)  # 32 pixels
    np.save("clips.npy", big)
    same = [*ALLOW, "--set", "resolution=32"]
    options = ["--model", str(model), "--real", "clips.npy", *FAST, *same]
    said = refused(capsys, *options, "--lpips", "vgg")
    assert "vgg16-397923af.pth is not there and" in said and "or give --lpips none" in said
    alex = torchvision.models.alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": value for name, value in alex.items()}, at / TRUNKS["alex"])
    monkeypatch.setitem(KNOWN, TRUNKS["alex"], WeightsFile(TRUNKS["alex"], "random features"))
    report = measured("--model", str(model), *same, lpips="alex")
    frames = torch.from_numpy(big).permute(0, 1, 4, 2, 3).float() / 127.5 - 1  # (n, t, 3, h, w)
    distance = lpips_distance("alex")
    expected = [distance((clip + 0.3).clamp(-1, 1), clip).mean().item() for clip in frames]
    assert report["metrics"]["lpips_alex_n4"]["value"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert report["metrics"]["lpips_alex_n4"]["std"] == pytest.approx(np.std(expected), rel=1e-2)
    assert "lpips_vgg_n4" not in report["metrics"] and len(report["networks"][TRUNKS["alex"]]) == 64
    assert "trunks vgg and alex, not 'squeeze'" in refused(capsys, *options, "--lpips", "squeeze")
    said = refused(capsys, *options, "--set", "resolution=30", "--lpips", "alex")
    assert "lpips_alex needs frames of 31 pixels or more on each side, not 30" in said


def test_processes_and_batches_change_no_score(at: Path) -> None:
    """Of a real autoencoder, whose floats depend on how many clips it sees at once."""
    model = write_codec(at / "ae.safetensors", node=AUTOENCODER)
    alone = measured("--model", str(model), "--batch-size", "1", "--no-cache")
    batched = measured("--model", str(model), "--batch-size", "4", "--no-cache")
    assert values(batched) == pytest.approx(values(alone), rel=1e-6)
    options = ["--real", "clips.npy", *FAST, "--lpips", "none", "--device", "cpu", "--no-cache", "--out", "two.json"]
    in_two_processes(["reconstruction", "--model", str(model), *options, "--show", "3"])
    two = read_result("two.json")
    assert {name: each.value for name, each in two.metrics.items()} == pytest.approx(values(alone), rel=1e-6)
    assert two.machine["processes"] == 2 and two.real.manifest_sha256 == alone["real"]["manifest_sha256"]
    assert sorted(path.name for path in at.glob("two.*")) == [
        *(f"two.clip{i}.mp4" for i in range(3)),
        "two.json",
        "two.manifest.jsonl",
    ]


def test_the_codec_of_a_diffusion_model_is_measured_as_its_autoencoder_is(at: Path) -> None:
    model = write_codec(at / "ae.safetensors", node=AUTOENCODER)
    info, tensors = read_model(model)
    denoiser = {"target": "lvdm.models.denoisers.UNet3D", "params": UNET}
    parts = {
        "schedule": {"target": "lvdm.diffusion.schedules.Cosine"},
        "objective": {"target": "lvdm.diffusion.objectives.VObjective"},
    }
    told = replace(info, kind="diffusion", denoiser=denoiser, **parts, sampling={"latent_shape": [2, 4, 2, 2], "fps": 5})
    weights = {f"denoiser.{name}": value for name, value in instantiate(denoiser).state_dict().items()}
    save_model(at / "short.safetensors", tensors | weights, told)
    assert values(measured("--model", "short.safetensors")) == values(measured("--model", str(model)))
    assert iio.immeta("results/short-reconstruction-pvdm-fvd2048-custom.clip0.mp4", plugin="FFMPEG")["fps"] == 5


def test_the_first_clips_are_shown_above_their_reconstructions(at: Path, clips: np.ndarray) -> None:
    model = str(write_codec(at / "ae.safetensors", offset=-0.5))
    report = measured("--model", model, *ALLOW, "--show", "2", "--out", "out/r.json")
    assert sorted(path.name for path in (at / "out").iterdir()) == ["r.clip0.mp4", "r.clip1.mp4", "r.json", "r.manifest.jsonl"]
    assert report["shown"] == ["out/r.clip0.mp4", "out/r.clip1.mp4"]
    for number, path in enumerate(report["shown"]):
        shown = iio.imread(path, plugin="FFMPEG").astype(int)
        assert shown.shape == (12, 32, 16, 3)
        darker = np.clip(clips[number].astype(int) - 64, 0, 255)
        for half, expected in ((shown[:, :16], clips[number]), (shown[:, 16:], darker)):
            assert np.abs(half.mean(-1) - expected.mean(-1)).mean() < 10, "but for the resolution of colours"


def test_real_clips_are_replayed_and_results_compared(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright, brighter = (write_codec(at / f"{name}.safetensors", offset=0.05 * k) for k, name in enumerate(("a", "b"), 1))
    measured("--model", str(bright), *ALLOW, "--out", "a.json")
    before = measured("--model", str(brighter), *ALLOW, "--out", "b.json")
    again = measured("--model", str(brighter), *ALLOW, "--replay", "a.manifest.jsonl", "--out", "c.json")
    assert values(again) == pytest.approx(values(before))
    assert main(["compare", "a.json", "b.json", "--json", "d.json"]) == 0
    told = json.loads(Path("d.json").read_text())["differences"]
    assert told["psnr_clip_n4"]["difference"] == pytest.approx(20 * np.log10(0.05 / 0.1), abs=1e-3) and "r_fvd_n4" in told
    measured("--model", str(bright), *ALLOW, "--set", "quantise=round", "--out", "e.json")
    assert main(["compare", "a.json", "e.json"]) == 2
    assert "differ in protocol: quantise 'truncate' and 'round'" in capsys.readouterr().err
    np.save("clips.npy", np.load("clips.npy")[:, :, ::-1])
    said = refused(
        capsys, "--model", str(bright), "--real", "clips.npy", *FAST, *ALLOW, "--lpips", "none", "--replay", "a.manifest.jsonl"
    )
    assert "has other pixels than the manifest says" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["frames=11"], "clips of 11 frames do not divide into latents of 4 frames; give --set frames=12"),
        (["frames=10"], "clips of 10 frames do not divide into latents of 4 frames; give --set frames=12"),
        (["resolution=13"], "frames of 13 x 13 do not divide into latents of 8 x 8 pixels; give --set resolution=8"),
        (["resolution=9"], "ssim needs frames of 11 pixels or more on each side, not 9"),
        (["num_fake=3"], "num_fake has no effect on reconstructions"),
        (["runs=2"], "has 2 runs, and reconstructions are measured in one; give --set runs=1"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(at: Path, capsys: Any, options: list[str], sentence: str) -> None:
    model = str(write_codec(at / "ae.safetensors", node=AUTOENCODER))
    arguments = ["--model", model, "--real", "clips.npy", "--lpips", "none", *FAST]
    assert sentence in refused(capsys, *arguments, "--set", *options)
    assert "--show is -1" in refused(capsys, *arguments, "--show", "-1")
    no_distance = ["--model", model, "--real", "clips.npy", "--protocol", "tgan2-is"]
    assert "tgan2-is measures is; reconstructions need distances alone, such as fvd" in refused(capsys, *no_distance)
    assert not Path("results").exists()


def test_fewer_clips_than_the_protocol_takes_need_to_be_allowed(at: Path, capsys: Any) -> None:
    model = write_codec(at / "ae.safetensors", offset=0.0)
    options = ["--model", str(model), "--real", "clips.npy", "--lpips", "none", *ALLOW]
    said = refused(capsys, *options, "--protocol", "pvdm-fvd2048", *(option for option in FAST if option != "--allow-fewer"))
    assert "2048 real clips were requested, but 4 videos hold 4" in said
    named = values(measured(*options[:2], *ALLOW, "--set", "num_real=4"))
    assert set(named) == {"psnr_clip", "psnr_frame", "ssim", "r_fvd"}, "a protocol of 4 clips has them all"


def test_without_flags_it_is_the_held_out_split_at_the_models_own_size_and_needs_no_weights(
    at: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("LVDM_WEIGHTS", str(at / "none"))
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    big = np.load("clips.npy").repeat(3, axis=2).repeat(3, axis=3).repeat(2, axis=1)  # 24 frames of 48 pixels
    for number, split in enumerate(["train", "test", "test", "test"]):
        save_video(big[number], at / "data" / split / f"{number}")  # a folder of images
    size = {"data": {"params": {"train": {"params": {"size": 16}}}}}
    model = write_codec(at / "ae.safetensors", offset=0.3, config=size)
    assert main(["reconstruction", "--model", str(model), "--real", "data", *ALLOW, "--json", "r.json", "--device", "cpu"]) == 0
    said, report = capsys.readouterr(), json.loads(Path("r.json").read_text())
    assert "measured: 3 clips of 16 frames, split test, 16 x 16 pixels" in said.out
    assert set(values(report)) == {"psnr_clip_n3", "psnr_frame_n3", "ssim_n3"} and report["extractor"]["name"] == "none"
    assert "R-FVD not measured: no network" in report["warnings"]
    assert (report["real"]["split"], report["protocol"]["resolution"]) == ("test", 16)
    assert read_result(report["result"]).extractor.dim == 0
    assert all("label" not in each for each in report["metrics"].values())
    video = evaluate_reconstruction(model, big[1:], num=3, settings=EvalSettings(allow=["tiny_codecs"], device="cpu"))
    assert video.protocol.resolution == 16 and video.values["ssim"].value == pytest.approx(values(report)["ssim_n3"], rel=0.2)


def test_the_own_size_of_a_diffusion_model_is_that_of_its_latents() -> None:
    settings = SimpleNamespace(latent_shape=(4, 4, 8, 12))
    model = SimpleNamespace(settings=settings, codec=SimpleNamespace(spatial_factor=8), description={})
    found = of_held_out(EvalSettings(), model)
    assert (found.part, found.changes) == ("test", {"resolution": 64})
    assert of_held_out(EvalSettings(split="train"), model).part == "train"
    for size, expected in ((64, 64), ([48, 64], 48), (None, None), ("64", None)):
        model = SimpleNamespace(
            settings=None, description={"config": {"data": {"params": {"train": {"params": {"size": size}}}}}}
        )
        assert of_held_out(EvalSettings(), model).changes.get("resolution") == expected


def test_scores_of_clips_do_not_depend_on_the_clips_beside_them() -> None:
    video, made = torch.rand(2, 3, 3, 4, 16, 16) * 2 - 1
    together = clip_scores(video, made, {})
    for number in range(3):
        alone = clip_scores(video[[number]], made[[number]], {})
        for name, score in together.items():
            torch.testing.assert_close(score[[number]], alone[name])
