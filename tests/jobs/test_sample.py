"""lvdm.sample and lvdm.sample_long give what their commands write, resume the same folders, and name a wrong argument."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from test_sample_commands import at, names, video, write_model  # noqa: F401  (`at` is a fixture)
from torch import nn

import lvdm
from lvdm.cli import sample_long, sample_short
from lvdm.files import write_new
from lvdm.jobs.sample import _shown_prompts
from lvdm.jobs.sampled_files import content_of
from lvdm.sampling.options import LongKeywords, LongOptions, SamplingSettings
from lvdm.sampling.samplers import SAMPLERS
from lvdm.types import UserError


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("runs") / "joint" / "model.safetensors")


def test_python_and_the_command_sample_the_same_bytes(joint: Path, tmp_path: Path) -> None:
    options = ["--num", "3", "--batch-size", "2", "--seed", "4", "--steps", "2", "--device", "cpu", "--format", "mp4,npz"]
    assert sample_short.main([str(joint), *options, "--out", str(tmp_path / "command")]) == 0
    how = {"num": 3, "seed": 4, "steps": 2, "batch_size": 2, "device": "cpu"}
    samples = lvdm.sample(joint, **how)
    assert (samples.sampler, samples.steps, samples.frames, samples.paths) == ("dpmpp", 2, 20, [])
    written = lvdm.sample(lvdm.load(joint), **how, out=lvdm.Output(tmp_path / "python", ("mp4", "npz"), fps=10))
    assert len(written.paths) == 6 and not len(written.videos)
    for path in written.paths:
        other = tmp_path / "command" / path.name
        if path.suffix == ".mp4":
            assert path.read_bytes() == other.read_bytes()
        else:
            number = int(path.stem.rpartition("-")[2])
            assert np.array_equal(np.load(path)["video"], np.load(other)["video"])
            assert np.array_equal(np.load(path)["video"], samples.videos[number])


def test_long_videos_from_python_and_from_the_command_are_the_same_bytes(joint: Path, at: Path) -> None:  # noqa: F811
    start = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    lvdm.save_video(start, "start")
    options = ["--frames", "30", "--num", "3", "--batch-size", "2", "--steps", "1", "--start", "start", "--start-frames", "8"]
    command = [
        "--predict",
        str(joint),
        "--infill",
        str(joint),
        *options,
        "--device",
        "cpu",
        "--format",
        "npz",
        "--out",
        "command",
    ]
    assert sample_long.main(command) == 0
    how = {"frames": 30, "steps": 1, "start": start, "start_frames": 8}
    done: list[tuple[float, float]] = []
    written = lvdm.sample_long(
        joint, joint, 3, **how, batch_size=2, out=lvdm.Output("python", ["npz"]), on_progress=lambda *each: done.append(each)
    )
    assert isinstance(written, lvdm.LongSamples) and written.numbers == [0, 1, 2] and written.plan["start_latents"] == 2
    assert done[0] == (0, 72) and done[-1] == (pytest.approx(72), 72), "frames sampled: 30 of 3 videos without the start's 8"
    model = lvdm.load(joint)
    for number, path in enumerate(written.paths):
        assert np.array_equal(video(path), video(Path("command") / path.name))
        frames = np.stack(list(lvdm.sample_long(model, model, video=number, **how)))
        assert np.abs(video(path).astype(int) - frames).max() <= 1


@pytest.mark.parametrize("kind", ["short", "long"])
def test_a_folder_of_the_command_is_resumed_from_python_and_the_other_way(kind: str, joint: Path, at: Path) -> None:  # noqa: F811
    def by_command(num: int, *more: str) -> int:
        model = [str(joint)] if kind == "short" else ["--predict", str(joint), "--frames", "20"]
        return (sample_short if kind == "short" else sample_long).main(
            [*model, "--steps", "1", "--num", str(num), "--format", "npz", "--out", "out", "--resume", "--device", "cpu", *more]
        )

    def from_python(num: int, folder: str = "out", *, resume: bool = True, **more: object) -> list[int]:
        out = lvdm.Output(folder, ["npz"], resume=resume)
        if kind == "short":
            return lvdm.sample(joint, num, steps=1, out=out, device="cpu", **more).numbers
        return lvdm.sample_long(joint, None, num, steps=1, frames=20, out=out, device="cpu", **more).numbers

    assert by_command(2) == 0
    assert from_python(3) == [2]
    (at / "out" / "seed0-00001.npz").unlink()
    assert by_command(3) == 0
    assert from_python(3, "whole", resume=False) == [0, 1, 2]
    for name in ("seed0-00000.npz", "seed0-00001.npz", "seed0-00002.npz"):
        assert np.array_equal(video(at / "out" / name), video(at / "whole" / name))
    with pytest.raises(UserError, match="started with other settings: guidance \\(None then, 0.0 now"):
        from_python(4, guidance=0.0)
    with pytest.raises(UserError, match="made without resume"):
        from_python(4, "whole")


def test_a_resumed_folder_keeps_which_video_shows_which_prompt(at: Path) -> None:  # noqa: F811
    """Video i shows prompt i // num, so another num would mix prompts in one folder."""
    shown = [_shown_prompts(["a", "b"], num) for num in (2, 3)]
    assert shown[0] != shown[1]
    assert _shown_prompts(["a"], 2) == _shown_prompts(["a"], 3) and _shown_prompts([], 2) == {}


def test_a_loaded_model_is_told_apart_by_its_weights(joint: Path) -> None:
    model, other = lvdm.load(joint), lvdm.load(joint)
    assert content_of(model) == content_of(other)
    next(iter(other.denoiser.parameters())).data.add_(1)
    assert content_of(model) != content_of(other)


def test_of_two_writers_of_a_new_file_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert write_new(path, lambda temporary: temporary.write_text("first"))
    assert not write_new(path, lambda temporary: temporary.write_text("second"))
    assert path.read_text() == "first" and names(tmp_path) == ["settings.json"]


def test_the_keywords_of_a_long_video_are_its_options() -> None:
    hints = {each.name: get_type_hints(LongOptions)[each.name] for each in fields(LongOptions)}
    assert get_type_hints(LongKeywords) == hints


def test_a_sampler_that_a_package_adds_is_a_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are looked up when a setting is checked, not when lvdm is imported."""
    monkeypatch.setitem(SAMPLERS, "euler", replace(SAMPLERS["ddim"], name="euler"))
    assert SamplingSettings(latent_shape=(2, 5, 2, 2), sampler="euler").sampler == "euler"
    with pytest.raises(UserError, match="sampling.sampler is 'oiler', expected one of ddim, .*, euler"):
        SamplingSettings(latent_shape=(2, 5, 2, 2), sampler="oiler")


SHORT = [
    *(("videos", value) for value in ([-1], [True], [2**32], 3, "12", [0, 0], [3, 1, 3])),
    *(("prompts", value) for value in (None, "a cat", [3])),
    *(("num", value) for value in (True, "2", 0, 2.5)),
    *(("batch_size", value) for value in (0, -1, "2")),
    *(("seed", value) for value in (-1, None, 1.5)),
    *(("steps", value) for value in ("3", 0, True)),
    *(("eta", "x"), ("eta", 2), ("guidance", "x"), ("guidance", float("nan")), ("sampler", 3), ("out", 3), ("out", "")),
    *(("dtype", "bfloat16"), ("dtype", torch.int8), ("device", None), ("device", 2.5)),
]
LONG = [
    *(("key_stride", value) for value in (0, -1, "2")),
    *(("frames", value) for value in (0, True, "3")),
    *(("gap_batch", value) for value in (0, None, "x", True)),
    *(("overlap", -1), ("gap_steps", 0), ("lead_in", -1), ("condition_noise", "x"), ("gap_noise", 1.5), ("seed", "a")),
    *(
        ("video", -1),
        ("start", 3),
        ("start_frames", 2),
        ("num", 2),
        ("videos", [1]),
        ("videos", [0, 0]),
        ("batch_size", 2),
        ("infill", 3),
        ("steps", "3"),
    ),
]
OUTPUT = [
    *(("folder", 3), ("formats", "mp4"), ("formats", ()), ("formats", ["avi"]), ("fps", 0), ("fps", float("inf"))),
    *(("quality", 0), ("quality", "x"), ("overwrite", 1), ("contact_sheet", None), ("resume", True)),
]
SAVED = [("path", 3), ("fps", None), ("quality", "x"), ("overwrite", 2), ("frames", None), ("frames", "abc")]


@pytest.mark.parametrize(("verb", "name", "value"), [
    *(("sample", *each) for each in SHORT), *(("sample_long", *each) for each in LONG),
    *(("Output", *each) for each in OUTPUT), *(("save_video", *each) for each in SAVED),
])  # fmt: skip
def test_an_odd_value_is_refused_in_a_sentence_that_names_it(verb: str, name: str, value: Any, joint: Path, at: Path) -> None:  # noqa: F811
    usual: dict[str, dict[str, Any]] = {
        "sample": {"model": joint, "num": 1, "steps": 1},
        "sample_long": {"predict": joint, "infill": joint, "frames": 30, "steps": 1},
        "Output": {},
        "save_video": {"frames": np.zeros((2, 16, 16, 3), np.uint8), "path": "a.mp4"},
    }
    with pytest.raises(UserError, match="folder" if name == "out" else name) as refused:
        getattr(lvdm, verb)(**{**usual[verb], name: value})
    assert len(str(refused.value)) < 300 and not names(at), "nothing was written"


@pytest.mark.parametrize("model", [3, None, b"x", [Path("a")]])
def test_what_is_no_model_is_refused(model: Any) -> None:
    for verb, name in ((lvdm.load, "path"), (lvdm.sample, "model"), (lvdm.sample_long, "predict")):
        with pytest.raises(UserError, match=f"{name} is "):
            verb(model)


def test_the_argument_that_is_wrong_is_named(joint: Path) -> None:
    for options, words in (
        ({"prompts": ["a cat"]}, "no text encoder"),
        ({"prompts": ["a cat"], "videos": [4]}, "videos has 4, and 1 videos of each of 1 prompts are 0 to 0"),
    ):
        with pytest.raises(UserError, match=words):
            lvdm.sample(joint, **{"num": 1, "steps": 2, **options})
    loaded = lvdm.load(joint)
    with pytest.raises(UserError, match="runs in float32; leave dtype out"):
        lvdm.sample(loaded, 1, dtype=torch.bfloat16)
    with pytest.raises(UserError, match="stepz is no option of sample_long; did you mean steps"):
        lvdm.sample_long(joint, stepz=3)
    with pytest.raises(UserError, match="video has no effect with out"):
        lvdm.sample_long(joint, out="folder", video=2)


@pytest.mark.parametrize("frames", [20, 22, 30])
def test_a_start_that_leaves_nothing_to_sample_is_refused_as_an_array_and_as_a_file(frames: int, joint: Path, at: Path) -> None:  # noqa: F811
    start = np.full((40, 16, 16, 3), 90, np.uint8)
    lvdm.save_video(start, "start.npz")
    for given in (start[: frames + 2], "start.npz"):
        with pytest.raises(UserError, match=r"requested frames; .* continue fewer of the start \(start_frames\)"):
            lvdm.sample_long(joint, None, frames=frames, start=given)
    with pytest.raises(UserError, match=r"continues uint8 \(frames, 16, 16, 3\); read it by lvdm.read_video\(path, size="):
        lvdm.sample_long(joint, None, frames=60, start=np.zeros((8, 32, 32, 3), np.uint8))


def types_seen(network: nn.Module) -> set[torch.dtype]:
    """Return the set that collects the types in which the network's matrix products run."""
    seen: set[torch.dtype] = set()
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    return seen


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_every_network_runs_in_the_requested_type(dtype: torch.dtype | None, joint: Path) -> None:
    """The encoder of the start, the denoiser and the decoder; what comes out is float32 and nearly the same."""
    model, start = lvdm.load(joint, dtype=dtype), np.full((8, 16, 16, 3), 90, np.uint8)
    seen = {name: types_seen(network) for name, network in (("codec", model.codec), ("denoiser", model.denoiser))}
    made = np.stack(list(lvdm.sample_long(model, model, frames=30, steps=2, start=start)))
    assert seen == {"codec": {dtype or torch.float32}, "denoiser": {dtype or torch.float32}}
    assert model.codec.encode(start).dtype == torch.float32 and model.codec.dtype == torch.float32
    exact = lvdm.load(joint)
    assert model.codec.fingerprint() == exact.codec.fingerprint()
    assert np.abs(made.astype(float) - np.stack(list(lvdm.sample_long(exact, exact, frames=30, steps=2, start=start)))).mean() < 8
