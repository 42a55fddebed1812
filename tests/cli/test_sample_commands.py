"""sample_short and sample_long from a model file to files on the disk; the same model from Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

import lvdm
from lvdm.checkpoints.model_file import ModelInfo, save_model
from lvdm.cli import compare_long, sample_long, sample_short
from lvdm.config import instantiate
from lvdm.jobs.sampled_files import batches
from lvdm.processes import Process
from lvdm.sampling.samplers import SAMPLERS
from lvdm.toys.compare import COLUMNS
from lvdm.toys.scores import SCORERS
from lvdm.types import UserError

MODELS, DIFFUSION = "lvdm.models", "lvdm.diffusion"
AUTOENCODER = {
    "target": f"{MODELS}.autoencoders.patch_vae3d.PatchVAE3D",
    "params": {"channels": [8, 8], "blocks": 1, "latent_channels": 2},
}
UNET = {"in_channels": 2, "out_channels": 2, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1, "num_heads": 2}
JOINT = {**UNET, "attention_resolutions": [1], "mask_channel": True, "noise_level": "time", "fps_embedding": True}
SETTINGS = {"latent_shape": [2, 5, 2, 2], "fps": 10, "key_stride": 4, "sampler": "dpmpp", "steps": 3, "spacing": "trailing"}


def write_model(path: Path, *, kind: str = "diffusion", denoiser: dict[str, Any] = JOINT, **settings: object) -> Path:
    """A model file with random weights, none of them zero; the same autoencoder in each."""
    torch.manual_seed(0)
    nodes = {"autoencoder": AUTOENCODER}
    if kind == "diffusion":
        nodes["denoiser"] = {"target": f"{MODELS}.denoisers.unet3d.UNet3D", "params": denoiser}
    tensors = {}
    for part, node in nodes.items():
        module = instantiate(node)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        prefix = "codec" if part == "autoencoder" else part
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    info = ModelInfo(
        kind=kind,
        **nodes,
        schedule={"target": f"{DIFFUSION}.schedules.Cosine"},
        objective={"target": f"{DIFFUSION}.objectives.VObjective"},
        scale=0.5,
        sampling={**SETTINGS, **settings},
    )
    save_model(path, tensors, info)
    return path


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "joint" / "model.safetensors")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def video(path: Path) -> np.ndarray:
    return np.load(path)["video"]


# Python ----------------------------------------------------------------------------------------------------------------------


def test_a_model_from_python(joint: Path) -> None:
    model = lvdm.load(joint)
    videos = model.sample(num=2, steps=2, sampler="ddim", eta=1.0, seed=1)
    assert videos.shape == (2, 20, 16, 16, 3) and videos.dtype == np.uint8
    latent = model.sample_latents(2, steps=2, sampler="ddim", eta=1.0, seed=1)
    decoded = ((model.codec.decode(latent) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 4, 1)
    assert np.abs(decoded.numpy() - videos).max() <= 1
    cond = lvdm.Condition(fps=torch.full((2,), 10.0))
    assert model.denoiser(latent, torch.tensor([5, 5]), cond).shape == latent.shape


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_video_is_the_same_in_any_batch(joint: Path, sampler: str) -> None:
    model = lvdm.load(joint)
    options = {"sampler": sampler, "steps": 4, "seed": 5, "eta": 0.7 if SAMPLERS[sampler].takes_eta else 0.0}
    together = model.sample_latents(5, batch_size=5, **options)
    in_pairs = model.sample_latents(5, batch_size=2, **options)
    third = model.sample_latents(1, first=3, **options)
    assert (together - in_pairs).abs().max() < 1e-4 * together.std()
    assert (together[3:4] - third).abs().max() < 1e-4 * together.std()


def test_the_models_own_eta_goes_with_its_own_sampler(tmp_path: Path, joint: Path) -> None:
    own = lvdm.load(write_model(tmp_path / "random.safetensors", sampler="ddim", eta=0.8))  # else as joint is
    told = lvdm.load(joint).sample_latents(2, sampler="ddim", eta=0.8)
    assert torch.equal(own.sample_latents(2), told)
    assert torch.equal(own.sample_latents(2, sampler="ddim"), told)
    assert torch.equal(own.sample_latents(2, eta=0.0), lvdm.load(joint).sample_latents(2, sampler="ddim"))
    assert torch.equal(own.sample_latents(2, sampler="dpmpp"), lvdm.load(joint).sample_latents(2))


def test_a_given_start_takes_the_place_of_the_seeds(joint: Path) -> None:
    model = lvdm.load(joint)
    noise = torch.randn(2, 2, 5, 2, 2)
    first, second = (model.sample_latents(2, noise=noise, seed=seed) for seed in (0, 1))
    torch.testing.assert_close(first, second)
    with pytest.raises(UserError, match="the noise has shape"):
        model.sample(3, noise=noise)


def test_bfloat16_is_nearly_float32(joint: Path) -> None:
    exact, rough = (lvdm.load(joint, dtype=dtype).sample_latents(2) for dtype in (None, torch.bfloat16))
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.1 * exact.std()


def test_labels_guide(tmp_path: Path) -> None:
    model = lvdm.load(write_model(tmp_path / "labels.safetensors", denoiser={**JOINT, "num_labels": 3}))
    plain, strong = (model.sample_latents(2, label=1, guidance=w) for w in (0.0, 2.0))
    assert (plain - strong).abs().max() > 1e-3
    each = model.sample_latents(2, label=[1, 2], guidance=2.0)
    torch.testing.assert_close(each[:1], strong[:1], atol=1e-4, rtol=1e-4)
    assert (each[1] - strong[1]).abs().max() > 1e-3
    with pytest.raises(UserError, match="classes 0 to 2"):
        model.sample(1, label=3)
    with pytest.raises(UserError, match="nothing to guide by"):
        model.sample(1, guidance=0.5)


def test_an_autoencoder_codes_but_makes_nothing(tmp_path: Path) -> None:
    model = lvdm.load(write_model(tmp_path / "ae.safetensors", kind="autoencoder"))
    assert model.codec.decode(model.codec.encode(torch.zeros(1, 3, 8, 16, 16))).shape == (1, 3, 8, 16, 16)
    with pytest.raises(UserError, match="autoencoder alone"):
        model.sample(1)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(AttributeError, match="lvdm has no lode"):
        lvdm.lode  # noqa: B018


# Commands ----------------------------------------------------------------------------------------------------------------------


def test_sample_short_writes_what_python_gives(joint: Path, at: Path) -> None:
    options = ["--num", "3", "--batch-size", "2", "--seed", "4", "--steps", "2", "--contact-sheet", "--json", "report.json"]
    assert sample_short.main([str(joint), *options, "--out", "out", "--format", "npz,mp4,gif,frames"]) == 0
    stems = [f"seed4-{i:05d}" for i in range(3)]
    files = [f"{stem}{suffix}" for stem in stems for suffix in ("", ".gif", ".mp4", ".npz")]
    assert names(at / "out") == sorted([*files, "seed4-contact-sheet.png"])
    expected = lvdm.load(joint).sample(3, seed=4, steps=2)
    for i, stem in enumerate(stems):
        assert np.abs(video(at / "out" / f"{stem}.npz").astype(int) - expected[i]).max() <= 1
        assert len(names(at / "out" / stem)) == 20
    assert iio.immeta(at / "out" / "seed4-00000.mp4", plugin="FFMPEG")["fps"] == 10
    assert Image.open(at / "out" / "seed4-contact-sheet.png").size == (10 * 18 - 2, 3 * 18 - 2)
    report = json.loads((at / "report.json").read_text())
    assert report["steps"] == 2 and report["sampler"] == "dpmpp" and len(report["videos"]) == 13
    assert (report["guidance"], report["label"], report["labels"], report["prompts"], report["fps"]) == (0, None, None, [], 10)


@pytest.mark.parametrize("gap_batch", ["auto", "2"])
def test_sample_long_writes_what_python_gives(joint: Path, at: Path, gap_batch: str) -> None:
    options = ["--frames", "70", "--num", "2", "--gap-batch", gap_batch, "--format", "npz", "--contact-sheet", "--out", "out"]
    models = ["--predict", str(joint), "--infill", str(joint)]
    assert sample_long.main([*models, *options, "--json", "report.json"]) == 0
    model = lvdm.load(joint)
    for i in range(2):
        expected = np.stack(list(lvdm.sample_long(model, model, frames=70, video=i)))
        assert np.abs(video(at / "out" / f"seed0-{i:05d}.npz").astype(int) - expected).max() <= 1
    report = json.loads((at / "report.json").read_text())
    assert (report["label"], report["prompt"], report["fps"]) == (None, None, 10)
    plan = report["plan"]
    assert plan["latents"] == 18 and plan["key_windows"] == 2 and plan["gap_windows"] == 5


def test_sample_long_goes_on_from_a_video(joint: Path, at: Path) -> None:
    iio.imwrite("start.mp4", np.full((30, 24, 32, 3), 90, np.uint8), fps=10, plugin="FFMPEG", macro_block_size=1)
    start = ["--start", "start.mp4", "--start-frames", "22", "--frames", "60"]
    output = ["--format", "npz", "--out", "o", "--json", "report.json"]
    assert sample_long.main(["--predict", str(joint), *start, *output]) == 0
    assert video(at / "o" / "seed0-00000.npz").shape == (60, 16, 16, 3)
    assert json.loads((at / "report.json").read_text())["plan"]["start_latents"] == 5


def test_processes_share_the_videos(joint: Path, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(2):
        for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))
        options = ["--device", "cpu", "--num", "3", "--steps", "2", "--format", "npz", "--out", "out", "--json", "r.json"]
        assert sample_short.main([str(joint), *options]) == 0
    assert names(at / "out") == [f"seed0-{i:05d}.npz" for i in range(3)]
    assert len(json.loads((at / "r.json").read_text())["videos"]) == 1
    assert len(json.loads((at / "r-rank1.json").read_text())["videos"]) == 2
    monkeypatch.undo()
    expected = lvdm.load(joint).sample(3, steps=2)
    assert np.abs(video(at / "out" / "seed0-00002.npz").astype(int) - expected[2]).max() <= 1


@pytest.mark.parametrize("command", [sample_short, sample_long])
def test_half_finished_sampling_goes_on_with_what_is_missing(command: Any, joint: Path, at: Path, capsys: Any) -> None:
    models = [str(joint)] if command is sample_short else ["--predict", str(joint), "--frames", "20"]
    options = [*models, "--steps", "2", "--format", "npz"]
    assert command.main([*options, "--num", "5", "--out", "whole"]) == 0
    assert command.main([*options, "--num", "5", "--out", "part", "--resume"]) == 0
    kept = {name: (at / "part" / name).stat().st_mtime_ns for name in ("seed0-00000.npz", "seed0-00003.npz")}
    for number in (1, 2, 4):
        (at / "part" / f"seed0-{number:05d}.npz").unlink()
    assert command.main([*options, "--num", "6", "--batch-size", "2", "--out", "part", "--resume"]) == 0
    assert all((at / "part" / name).stat().st_mtime_ns == time for name, time in kept.items())
    for name in (f"seed0-{number:05d}.npz" for number in range(5)):
        assert np.abs(video(at / "part" / name).astype(int) - video(at / "whole" / name)).max() <= 1
    assert (at / "part" / "seed0-00005.npz").exists()
    assert command.main([*options, "--steps", "3", "--num", "7", "--out", "part", "--resume"]) == 2
    assert "started with other settings: steps (2 then, 3 now)" in capsys.readouterr().err
    assert command.main([*options[:-4], "--format", "npz", "--num", "7", "--out", "part", "--resume"]) == 2
    assert "started with other settings: steps (2 then, None now)" in capsys.readouterr().err
    assert command.main([*options, "--out", "whole", "--resume"]) == 2
    assert "made without resume" in capsys.readouterr().err
    assert command.main([*options, "--resume"]) == 2


def test_batches_are_videos_that_follow_each_other() -> None:
    assert list(batches([0, 1, 2, 5, 6, 9], 2)) == [range(0, 2), range(2, 3), range(5, 7), range(9, 10)]
    assert list(batches([], 3)) == [] and list(batches(range(4, 9), 3)) == [range(4, 7), range(7, 9)]


def test_every_video_has_one_process() -> None:
    shares = [[*Process(rank, 3, 0).share(7)] for rank in range(3)]
    assert sorted(sum(shares, [])) == list(range(7)) and max(map(len, shares)) - min(map(len, shares)) <= 1


def test_another_runs_files_stay(joint: Path, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [str(joint), "--num", "1", "--steps", "1", "--format", "npz"]
    assert sample_short.main(short) == 0 and sample_short.main(short) == 0
    assert names(at / "samples") == ["joint", "joint-2"]
    before = (at / "samples" / "joint" / "seed0-00000.npz").read_bytes()
    assert sample_short.main([*short, "--out", "samples/joint"]) == 2
    assert "has seed0-00000.npz already" in capsys.readouterr().err
    assert sample_short.main([*short, "--out", "samples/joint", "--seed", "1"]) == 0, "another seed has other names"
    assert (at / "samples" / "joint" / "seed0-00000.npz").read_bytes() == before
    assert sample_short.main([*short, "--out", "samples/joint", "--overwrite", "--steps", "2"]) == 0


Broken = Callable[[Path, Path], list[str]]
ERRORS: dict[str, tuple[str, Broken]] = {
    "missing": ("there is no model file", lambda joint, at: ["nothing.safetensors"]),
    "truncated": ("truncated", lambda joint, at: [str(_truncated(joint, at))]),
    "autoencoder": ("autoencoder alone", lambda joint, at: [str(write_model(at / "ae.safetensors", kind="autoencoder"))]),
    "size": ("do not fit", lambda joint, at: [str(_of_another_size(at))]),
    "option": ("does not fit this version of lvdm", lambda joint, at: [str(_with_unknown_option(at))]),
    "prompt": ("no text encoder", lambda joint, at: [str(joint), "--prompt", "a cat"]),
    "label": ("knows no classes; leave label out", lambda joint, at: [str(joint), "--label", "1"]),
    "eta": ("dpmpp has no eta", lambda joint, at: [str(joint), "--eta", "0.5"]),
    "guidance": ("nothing to guide by", lambda joint, at: [str(joint), "--guidance", "1"]),
    "format": ("'avi'", lambda joint, at: [str(joint), "--format", "avi"]),
    "quality": ("quality is that of mp4", lambda joint, at: [str(joint), "--format", "npz", "--quality", "3"]),
    "num": ("num is 0, expected an integer of 1 or more", lambda joint, at: [str(joint), "--num", "0"]),
    "batch": ("batch_size is 0, expected an integer of 1 or more", lambda joint, at: [str(joint), "--batch-size", "0"]),
    "steps": ("1001 sampling steps", lambda joint, at: [str(joint), "--steps", "1001"]),
    "device": ("no GPU", lambda joint, at: [str(joint), "--device", "cuda"]),
    "folder": ("cannot make the folder", lambda joint, at: [str(joint), "--out", str(_file(at) / "below")]),
}


def _file(at: Path) -> Path:
    (at / "file").write_text("not a folder")
    return at / "file"


def _truncated(joint: Path, at: Path) -> Path:
    (at / "cut.safetensors").write_bytes(joint.read_bytes()[:3000])
    return at / "cut.safetensors"


def _changed(path: Path, **options: object) -> Path:
    """A model file whose description names other options than its weights were made with."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    write_model(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        described = json.loads(file.metadata()["lvdm"])
        described["denoiser"]["params"] |= options
        del described["hash"], described["tensor_hashes"]  # as if an earlier version had written it
        metadata = {**file.metadata(), "lvdm": json.dumps(described)}
    save_file(tensors, path, metadata)
    return path


def _of_another_size(at: Path) -> Path:
    return _changed(at / "size.safetensors", model_channels=64)


def _with_unknown_option(at: Path) -> Path:
    return _changed(at / "option.safetensors", model_chanels=32)


def test_a_gpu_that_is_not_there_is_refused(joint: Path, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="torch sees 2 GPUs here"):
        lvdm.load(joint, device="cuda:2")


@pytest.mark.parametrize("case", ERRORS)
def test_what_the_user_can_mend_is_one_sentence(case: str, joint: Path, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if case == "device" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words, arguments = ERRORS[case]
    assert sample_short.main(arguments(joint, at)) == 2
    said = capsys.readouterr().err
    sentences = [line for line in said.splitlines() if line.strip() and "%|" not in line]
    assert len(sentences) == 1 and words in sentences[0], said
    assert not list(at.rglob("*.mp4")) and not list(at.rglob(".*")), "something half-written remains"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gap-noise", "5"], "gap_noise has no effect without an infill model"),
        (["--gap-batch", "many"], "expected auto or a number"),
        (["--start-frames", "5"], "start_frames has no effect without start"),
        (["--start", "nothing.mp4"], "there is no nothing.mp4"),
        (["--frames", "0"], "frames is 0, expected an integer"),
        (["--overlap", "5"], "cannot share 5"),
    ],
)
def test_long_options_without_effect_are_refused(
    options: list[str], words: str, joint: Path, at: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample_long.main(["--predict", str(joint), *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", [sample_short, sample_long])
def test_help_states_the_guidance_convention(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "eps_c + w (eps_c - eps_u): 0 is off" in said and "example:" in said


def test_the_window_of_decoding_travels_in_the_model_file(at: Path) -> None:
    assert lvdm.load(write_model(at / "model.safetensors", decode_window=3)).codec.decode_window == 3


def project(video: np.ndarray) -> float:
    """One number that any change of the video moves; discs, which are scored else, a random model's videos have none of."""
    return float((video * np.random.default_rng(0).standard_normal(video.shape)).sum() / video.size**0.5)


class Projection:
    def __init__(self, video: np.ndarray) -> None:
        self.video = video

    def summary(self, last: int) -> dict[str, float]:
        return dict.fromkeys(COLUMNS, project(self.video[-last:]))


def test_compare_long_scores_the_videos_that_sample_long_makes(joint: Path, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "discs", Projection)
    models = ["--predict", str(joint), "--infill", str(joint), "--frames", "40", "--num", "3", "--batch-size", "2", "--seed", "4"]
    variants = ["--variant", "default", "--variant", "plain autoregressive", "infill=none", "overlap=2", "guidance=0.5"]
    assert compare_long.main([*models, *variants, "--json", "report.json", "--out", "table.md"]) == 0
    compared = json.loads((at / "report.json").read_text())["variants"]

    model = lvdm.load(joint)
    made = {
        "default": lambda i: lvdm.sample_long(model, model, frames=40, seed=4, video=i),
        "plain autoregressive": lambda i: lvdm.sample_long(model, frames=40, seed=4, video=i, overlap=2, guidance=0.5),
    }
    for name, video_of in made.items():
        expected = [project(np.stack(list(video_of(i)))) for i in range(3)]
        assert compared[name]["videos"]["ok"] == pytest.approx(expected, abs=0.1)
        assert compared[name]["mean"]["ok"] == pytest.approx(np.mean(expected), abs=0.1)
        assert compared[name]["spread"]["ok"] == pytest.approx(np.std(expected, ddof=1), abs=0.1)
        assert f"| {name} |" in (at / "table.md").read_text()
    first, second = (compared[name]["videos"]["ok"] for name in made)
    assert np.abs(np.subtract(first, second)).max() > 0.5, "the variants differ"


@pytest.mark.parametrize("word, sentence", [("overlop=2", "overlap"), ("overlap", "key=value"), ("frames=3", "setting")])
def test_compare_long_refuses_a_setting_that_it_does_not_know(joint: Path, at: Path, capsys, word: str, sentence: str) -> None:
    assert compare_long.main(["--predict", str(joint), "--variant", "wrong", word]) == 2
    assert sentence in capsys.readouterr().err
