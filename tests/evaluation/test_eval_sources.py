"""Sources of scripts/eval.py: the same clips score alike wherever they lie; what is kept of them does not outlive their files."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_evaluation import NARROW, SHORT, manifest_of, result_of, saved, toys, values_of
from tiny_training import CODEC, data_of, diffusion_config, make_latents, video_set, write_config, write_videos

import lvdm
from lvdm.cli import train
from lvdm.cli.eval import main
from lvdm.evaluation import measure as measurement
from lvdm.evaluation.sources.videos import open_source
from lvdm.sampling.long_pipeline import LongOptions, prepare_long_video

COMMAND = ["--protocol", "styleganv-fvd2048-16f", *NARROW, "--allow-fewer"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three mp4 files."""
    return write_videos(tmp_path_factory.mktemp("films") / "videos", count=3, frames=12, size=16)


def decoded(films: Path) -> np.ndarray:
    return np.stack([iio.imread(path, plugin="FFMPEG") for path in sorted(films.iterdir()) if path.suffix == ".mp4"])


def write_frames(root: Path, clips: np.ndarray) -> str:
    """A folder of png a video."""
    for number, clip in enumerate(clips):
        (root / f"{number}").mkdir(parents=True)
        for frame, image in enumerate(clip):
            Image.fromarray(image).save(root / f"{number}" / f"{frame}.png")
    return str(root)


def test_the_same_clips_score_the_same_from_files_folders_and_arrays(films: Path, tmp_path: Path) -> None:
    """Frames as another reader decodes them, stored without loss."""
    clips = decoded(films)
    assert clips.shape == (3, 12, 16, 16, 3)
    np.savez(tmp_path / "named.npz", any_name=clips)
    np.savez_compressed(tmp_path / "packed.npz", clips)
    places = [saved(tmp_path / "clips.npy", clips), str(tmp_path / "named.npz"), str(tmp_path / "packed.npz")]
    places += [write_frames(tmp_path / "frames", clips), str(films)]
    made = []
    for number, place in enumerate(places):  # real clips start anywhere, generated ones at the beginning
        made.append(values_of(tmp_path / f"{number}.json", "--real", place, "--fake", place, *COMMAND, *SHORT))
    assert made[0]["fvd_n3"] > 1 and all(values == made[0] for values in made)
    pixels = [[clip.sha256 for clip in manifest_of(tmp_path / f"{n}.json").clips] for n in range(len(places))]
    assert all(hashes == pixels[0] for hashes in pixels) and len(set(pixels[0])) == 3


def test_an_array_is_mapped_and_not_loaded(tmp_path: Path) -> None:
    source = open_source(Path(saved(tmp_path / "clips.npy", toys(2))), split="train")
    assert isinstance(source.videos, np.memmap)


def config_of(films: Path, path: Path, **both: object) -> str:
    """The data of a training, whose own clips are longer than most videos."""
    sets = [video_set(films / part, num_frames=12, **both) for part in ("train", "test")]
    return write_config(path, {"data": data_of(*sets), "codec": CODEC})


def test_a_split_is_read_from_its_folders_and_from_a_data_config_alike(tmp_path: Path) -> None:
    """train: videos of 12 frames, test: videos of 14; all frames of a colour say which video it is."""
    for part, frames, levels in (("train", 12, (10, 20)), ("test", 14, (30, 40, 50))):
        clips = [np.full((1, frames, 16, 16, 3), level, np.uint8) for level in levels]
        write_frames(tmp_path / "set" / part, np.concatenate(clips))
    config, fake = config_of(tmp_path / "set", tmp_path / "data.yaml"), saved(tmp_path / "fake.npy", toys(2, frames=9))
    for split, names in {"train": ["0", "1"], "test": ["0", "1", "2"], "train+test": [*"00112"]}.items():
        told = []
        for real in (str(tmp_path / "set"), config):
            arguments = ["--real", real, "--fake", fake, *COMMAND, *SHORT, "--split", split]
            result = result_of(tmp_path / "it.json", *arguments)
            clips = manifest_of(tmp_path / "it.json").clips
            assert [Path(clip.file).name for clip in clips] == names and result["num_real"] == len(names)
            assert result["real"]["name"].endswith(f" ({split})") and result["real"]["split"] == split
            told.append((result["metrics"], [clip.sha256 for clip in clips]))
        assert told[0] == told[1]
        assert len(set(told[0][1])) == len(names), "every video is another"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A joint model, trained for two steps, of windows of 16 frames."""
    folder = tmp_path_factory.mktemp("model")
    _, autoencoder = make_latents(write_videos(folder / "videos"), folder)
    config = diffusion_config(folder / "latents", folder, autoencoder)
    assert train.main([write_config(folder / "joint.yaml", config)]) == 0
    return str(folder / "joint" / "model.safetensors")


def made_in_python(model: str, frames: int) -> np.ndarray:
    """Videos 0, 1 and 2 of seed 5, rounded by hand."""
    made = lvdm.load(model)
    if frames > 16:
        long = prepare_long_video(made, None, LongOptions(frames=frames, steps=3))
        videos = torch.cat(list(long.videos(5, range(3))), dim=2)
    else:
        latents = made.sample_latents(3, seed=5, steps=3, sampler="dpmpp")
        videos = torch.cat([made.codec.decode(latent) for latent in latents.split(1)])
    return np.clip(np.floor(127.5 * (videos.numpy() + 1) + 0.5), 0, 255).astype(np.uint8).transpose(0, 2, 3, 4, 1)


@pytest.mark.parametrize("frames", [16, 20])
def test_a_model_scores_as_the_clips_that_it_makes(frames: int, model: str, tmp_path: Path) -> None:
    """Made from Python with the same seed and stored, or made while they are measured; within the model's window or longer."""
    arguments = ["--real", saved(tmp_path / "real.npy", toys(3, frames=20)), *COMMAND, "3", "--set", f"frames={frames}"]
    stored = values_of(tmp_path / "a.json", *arguments, "--fake", saved(tmp_path / "made.npy", made_in_python(model, frames)))
    live = result_of(tmp_path / "b.json", *arguments, "--fake", model, "--seed", "5", "--steps", "3")
    assert {name: told["value"] for name, told in live["metrics"].items()} == stored
    told = {"kind": "model", "sampler": "dpmpp", "steps": 3, "eta": 0.0, "seed": 5, "is_ema": True, "guidance": 0.0}
    assert live["fake"] | told == live["fake"] and live["fake"]["sha256"] == sha256(Path(model).read_bytes()).hexdigest()


# What is kept ------------------------------------------------------------------------------------------------------------


def test_features_of_real_clips_are_kept_until_their_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal where they are kept; an array, or one image of a folder in its place, written anew is measured anew."""
    measured: list[str] = []
    measure = measurement.measure
    monkeypatch.setattr(measurement, "measure", lambda source, *a, **o: measured.append(a[2]) or measure(source, *a, **o))
    clips = np.stack([np.full((9, 16, 16, 3), level, np.uint8) for level in (50, 150)])
    fake = saved(tmp_path / "fake.npy", toys(2, frames=9))
    for real in (saved(tmp_path / "real.npy", clips), write_frames(tmp_path / "real", clips)):
        arguments = ["--real", real, "--fake", fake, *COMMAND, *SHORT]
        runs = []
        for more in ([], [], ["--no-cache"], ["--feature-seed", "1"]):
            measured.clear()
            runs.append((values_of(tmp_path / "it.json", *arguments, *more), measured.count("real")))
        assert [count for _, count in runs] == [1, 0, 1, 1]
        assert runs[0][0] == runs[1][0] == runs[2][0] != runs[3][0]
        size = sum(path.stat().st_size for path in Path(real).parent.rglob("0.png"))
        if real.endswith(".npy"):
            saved(Path(real), clips // 2)
        else:
            Image.fromarray(clips[1, 0]).save(Path(real) / "0" / "0.png")
            assert size == sum(path.stat().st_size for path in Path(real).parent.rglob("0.png")), "the size does not tell"
        measured.clear()
        assert values_of(tmp_path / "it.json", *arguments) != runs[0][0] and measured.count("real") == 1


# What cannot be read ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["it"])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_clip_that_breaks_off_is_named_whoever_reads_it(workers: str, tmp_path: Path, capsys) -> None:
    root = write_frames(tmp_path / "frames", toys(3, frames=9))
    (tmp_path / "frames" / "1" / "5.png").write_bytes(b"no image")
    said = refusal(capsys, "--real", root, "--fake", root, *COMMAND, *SHORT, "--workers", workers)
    assert said.startswith("it: cannot read ") and "frames/1/5.png" in said


@pytest.mark.parametrize("batch_size", ["1", "2", "8"])
def test_clips_of_several_sizes_are_refused_for_any_batch_size(batch_size: str, tmp_path: Path, capsys) -> None:
    write_frames(tmp_path / "frames", toys(2, frames=9))
    write_frames(tmp_path / "frames" / "larger", toys(2, frames=9, size=20))
    arguments = ["--fake", str(tmp_path / "frames"), *COMMAND, *SHORT, "resolution=null", "resize=none", "--real"]
    said = refusal(capsys, *arguments, saved(tmp_path / "r.npy", toys(2)), "--batch-size", batch_size)
    assert "clips are of several sizes, 16 x 16 and 20 x 20; give --set resolution=SIDE" in said
