"""`eval.py text`: the tiny CLIP's cosines by hand, prompts put to their videos, a text model sampled on the fly."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tiny_codecs import write_codec
from tiny_text import TEXT_UNET, text_node, write_clip, write_whole_clip
from tiny_training import AUTOENCODER, UNET

import lvdm
from lvdm.checkpoints.model_file import read_model, save_model
from lvdm.cli.eval import main
from lvdm.config import instantiate
from lvdm.evaluation.protocols.named import PROTOCOLS
from lvdm.evaluation.results.result import ExtractorFacts, FakeSource, RealSource, Result, Value, read_result
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.text import PromptedModel, open_prompted, prompts_sha256, similarities
from lvdm.models.features.clip_similarity import ClipSimilarity
from lvdm.models.text import ClipText

PROMPTS = ["a red disc", "clouds", "the sea at night"]
KEY = "clip_similarity_vit-base-patch32"
Report = dict[str, Any]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_whole_clip(folder / "clip-vit-base-patch32")
    return folder


@pytest.fixture
def at(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with three videos as an array and as folders of images, and their prompts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LVDM_WEIGHTS", str(weights))
    videos = np.random.RandomState(0).randint(0, 256, (3, 4, 32, 32, 3), dtype=np.uint8)
    np.save("videos.npy", videos)
    for number, video in enumerate(videos):
        Path(f"folder/{number}").mkdir(parents=True)
        for frame, image in enumerate(video):
            iio.imwrite(f"folder/{number}/{frame}.png", image)
    Path("prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return tmp_path


@pytest.fixture
def text_model(at: Path) -> Path:
    """A text-to-video model with random weights."""
    return write_text_model(at / "text.safetensors", at / "encoder")


def write_text_model(path: Path, encoder: Path | None) -> Path:
    torch.manual_seed(0)
    info, tensors = read_model(write_codec(path.with_name("ae.safetensors"), node=AUTOENCODER))
    denoiser = {"target": "lvdm.models.denoisers.UNet3D", "params": UNET if encoder is None else TEXT_UNET}
    network = instantiate(denoiser)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    node = None if encoder is None else text_node(write_clip(encoder))
    told = replace(
        info,
        **{"kind": "diffusion", "denoiser": denoiser, "text_encoder": node},
        text_fingerprint=None if encoder is None else ClipText(encoder).fingerprint(),
        **{
            "schedule": {"target": "lvdm.diffusion.schedules.Cosine"},
            "objective": {"target": "lvdm.diffusion.objectives.VObjective"},
        },
        sampling={"latent_shape": [2, 2, 4, 4], "fps": 8, "steps": 2, "sampler": "dpmpp", "spacing": "trailing", "guidance": 1.5},
    )
    save_model(path, tensors | {f"denoiser.{name}": value for name, value in network.state_dict().items()}, told)
    return path


def measured(*options: str) -> Report:
    assert main(["text", "--device", "cpu", *options, "--json", "r.json"]) == 0
    return json.loads(Path("r.json").read_text())


def refused(capsys: Any, *options: str) -> str:
    capsys.readouterr()
    assert main(["text", "--device", "cpu", *options]) == 2
    return capsys.readouterr().err


def cosines(videos: np.ndarray, prompts: list[str]) -> np.ndarray:
    """One video and one frame at a time; the similarity itself is held to its formula in test_transformer_features."""
    similarity, of = ClipSimilarity(), torch.from_numpy
    frames = [
        [float(similarity(of(frame[None, None]), [prompt])) for frame in v] for v, prompt in zip(videos, prompts, strict=True)
    ]
    return np.mean(frames, axis=1)


def test_an_array_and_a_folder_with_prompts_or_captions_have_the_mean_cosine(at: Path) -> None:
    expected = cosines(np.load("videos.npy"), PROMPTS)
    lines = [json.dumps({"file": f"{number}", "caption": prompt}) for number, prompt in enumerate(PROMPTS)]
    array = measured("--fake", "videos.npy", "--prompts", "prompts.txt", "--bootstrap", "50")
    folder = measured("--fake", "folder", "--prompts", "prompts.txt", "--batch-size", "3")
    Path("folder/metadata.jsonl").write_text("\n".join(lines))
    captions = measured("--fake", "folder")
    for report in (array, folder, captions):
        assert report["metrics"][KEY]["value"] == pytest.approx(expected.mean(), rel=1e-6)
        assert report["metrics"][KEY]["std"] == pytest.approx(expected.std(), rel=1e-4)
        assert (report["num_videos"], report["frames"]) == (3, [4, 4]) and report["prompts_sha256"] == prompts_sha256(PROMPTS)
    low, high = array["metrics"][KEY]["interval"]
    assert low < expected.mean() < high and array["metrics"][KEY]["over"] == "videos"
    assert len(array["network"]["sha256"]) == 64 and array["network"]["name"] == "clip clip-vit-base-patch32"
    assert [report["fake"]["kind"] for report in (array, folder)] == ["array", "videos"]


def test_the_prompts_of_other_videos_are_others(at: Path) -> None:
    Path("turned.txt").write_text("\n".join(PROMPTS[::-1]))
    expected = cosines(np.load("videos.npy"), PROMPTS[::-1])
    assert measured("--fake", "folder", "--prompts", "turned.txt")["metrics"][KEY]["value"] == pytest.approx(expected.mean())
    assert abs(expected.mean() - cosines(np.load("videos.npy"), PROMPTS).mean()) > 1e-4


def test_several_videos_of_a_prompt_stand_together_as_sample_short_writes_them(at: Path, capsys: Any) -> None:
    np.save("six.npy", np.load("videos.npy").repeat(2, axis=0))
    options = ["--fake", "six.npy", "--prompts", "prompts.txt"]
    assert "6 videos came with 3 prompts and 1 videos of each; give num 2" in refused(capsys, *options)
    expected = cosines(np.load("videos.npy"), PROMPTS).mean()
    assert measured(*options, "--num", "2")["metrics"][KEY]["value"] == pytest.approx(expected, rel=1e-6)


def test_a_broken_video_takes_its_prompt_with_it(at: Path) -> None:
    """Where five of six can be read, the prompts of the others stay theirs."""
    videos = np.load("videos.npy")
    for number in (3, 4, 5):
        shutil.copytree(f"folder/{number - 3}", f"folder/{number}")
    for path in Path("folder/1").iterdir():
        path.write_bytes(b"no image")
    Path("six.txt").write_text("\n".join([*PROMPTS, *PROMPTS]))
    report = measured("--fake", "folder", "--prompts", "six.txt")
    chosen = [0, 2, 0, 1, 2]
    expected = cosines(videos[chosen], [PROMPTS[number] for number in chosen])
    assert report["num_videos"] == 5 and report["metrics"][KEY]["value"] == pytest.approx(expected.mean(), rel=1e-6)


def test_a_text_model_is_sampled_from_its_prompts(at: Path, text_model: Path) -> None:
    options = ["--fake", str(text_model), "--prompts", "prompts.txt", "--seed", "3"]
    report = measured(*options)
    model = lvdm.load(text_model)
    videos = model.sample(3, context=model.text_encoder(PROMPTS), seed=3)
    assert report["metrics"][KEY]["value"] == pytest.approx(cosines(videos, PROMPTS).mean(), rel=1e-5)
    told = {
        "kind": "model",
        "sampler": "dpmpp",
        "steps": 2,
        "guidance": 1.5,
        "is_ema": None,
        "seed": 3,
    }  # its file says no average
    assert report["fake"] | told == report["fake"] and report["frames"] == [8, 8]
    unguided = measured(*options, "--guidance", "0", "--num", "2")
    assert unguided["num_videos"] == 6 and unguided["fake"]["guidance"] == 0
    assert unguided["prompts_sha256"] == prompts_sha256([prompt for prompt in PROMPTS for _ in range(2)])


def test_processes_and_batches_change_no_similarity(at: Path, text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two processes measures its part: of files, and of what a model makes of three prompts, two and one."""
    model, similarity = lvdm.load(text_model), ClipSimilarity()
    files = open_prompted(Path("videos.npy"), PROMPTS, each=None, workers=0)
    made = [PromptedModel([text_model], model, model.text_encoder, Sampling(batch_size=size), PROMPTS) for size in (1, 2)]
    for videos, shares in ((files, [1, 2]), (made[0], [2, 1]), (made[1], [2, 1])):
        alone, _ = similarities(videos, ClipSimilarity(frames_at_once=5))
        parts = []
        with monkeypatch.context() as patch:
            for rank in "01":
                patch.setenv("RANK", rank)
                patch.setenv("WORLD_SIZE", "2")
                parts.append(similarities(videos, similarity)[0])
        assert [len(part) for part in parts] == shares
        assert np.concatenate(parts) == pytest.approx(alone, abs=1e-7), "of cosines, which go to 1"
    assert similarities(made[0], similarity)[0] == pytest.approx(alone, abs=1e-7)


def test_results_of_one_measurement_are_compared_and_others_are_refused(at: Path, capsys: Any) -> None:
    np.save("other.npy", 255 - np.load("videos.npy"))
    a = measured("--fake", "videos.npy", "--prompts", "prompts.txt", "--out", "a.json")
    b = measured("--fake", "other.npy", "--prompts", "prompts.txt", "--out", "b.json")
    assert json.loads(json.dumps(read_result("a.json").as_dict())) == json.loads(Path("a.json").read_text())
    assert main(["compare", "a.json", "b.json", "--json", "c.json"]) == 0
    told = json.loads(Path("c.json").read_text())["differences"][KEY]["difference"]
    assert told == pytest.approx(b["metrics"][KEY]["value"] - a["metrics"][KEY]["value"])
    Path("turned.txt").write_text("\n".join(PROMPTS[::-1]))
    measured("--fake", "videos.npy", "--prompts", "turned.txt", "--out", "d.json")
    assert main(["compare", "a.json", "d.json"]) == 2
    assert "cannot be compared, because they differ in prompts_sha256" in capsys.readouterr().err
    real, network = RealSource("sky", "f00d", "12" * 32), ExtractorFacts("i3d", 400, True)
    values, clips = {"psnr_clip": Value(30.0)}, FakeSource("reconstruction", "ae", "34" * 32)
    Result(PROTOCOLS["pvdm-fvd2048"], values, network, 2048, 2048, clips, real).save("e.json")
    assert main(["compare", "a.json", "e.json"]) == 2
    assert "they differ in kind: one is of prompts and the other of a protocol" in capsys.readouterr().err
    Path("f.json").write_text(Path("a.json").read_text().replace('"num_videos"', '"number"'))
    assert main(["compare", "a.json", "f.json"]) == 2
    assert "f.json is a damaged result" in capsys.readouterr().err


def test_what_cannot_be_measured_is_one_sentence(at: Path, text_model: Path, capsys: Any) -> None:
    with_prompts = ["--prompts", "prompts.txt"]
    assert "videos.npy holds no prompts; give them as prompts" in refused(capsys, "--fake", "videos.npy")
    assert "has no caption in a metadata.jsonl of folder" in refused(capsys, "--fake", "folder")
    assert "--num counts the videos of each prompt" in refused(capsys, "--fake", "folder", "--num", "2")
    assert "--steps has no effect on videos that are there" in refused(capsys, "--fake", "folder", *with_prompts, "--steps", "2")
    assert "a model samples videos of prompts; give prompts" in refused(capsys, "--fake", str(text_model))
    workers = ["--workers", "1", *with_prompts]
    assert "those of a model are not read; leave it out" in refused(capsys, "--fake", str(text_model), *workers)
    assert "it encodes videos but cannot sample any" in refused(capsys, "--fake", "ae.safetensors", *with_prompts)
    without = write_text_model(at / "plain.safetensors", None)
    assert "has no text encoder to read a prompt" in refused(capsys, "--fake", str(without), *with_prompts)
    Path("two.txt").write_text("a\nb\n")
    assert "3 videos came with 2 prompts and 1 videos of each; give a prompt for each" in refused(
        capsys, "--fake", "folder", "--prompts", "two.txt"
    )
    Path("folder/test").mkdir()
    assert "folder holds test; give the folder of the videos, such as folder/test" in refused(capsys, "--fake", "folder")
    assert "nowhere lacks config.json" in refused(capsys, "--fake", "videos.npy", *with_prompts, "--clip", "nowhere")
    assert not Path("results").exists()
