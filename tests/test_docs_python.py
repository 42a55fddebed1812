"""docs/python.md and docs/extending.md: every block runs, and every own part is trained, sampled or measured with."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_training import CODEC, TRAINER, autoencoder_config, data_of, video_set, write_config

import lvdm

ROOT = Path(__file__).resolve().parents[1]
FEWER = {  # of the page's numbers, so that its blocks take seconds
    "videos=512, frames=160": "videos=2, frames=160",
    "val=16": "val=4",
    '"trainer.max_steps": 1500': '"trainer.max_steps": 2, "trainer.val_check_interval": 2, "previews.num": 0',
    '"trainer.max_steps": 2700': '"trainer.max_steps": 2, "trainer.val_check_interval": 2, "previews.num": 0',
    "frames=1000": "frames=40",
    "frames=200": "frames=40",
    "steps=20": "steps=2",
}
NEEDS = "# needs a published checkpoint"
USE = """
import json, sys
import numpy as np
import lvdm
import my_parts
from lvdm.cli import eval as evaluate, sample_short, train

config, autoencoder = sys.argv[1:]
own = ["--allow-module", "my_parts"]
assert train.main([autoencoder, *own]) == 0
assert train.main([config, *own]) == 0
model = lvdm.load("runs/joint/model.safetensors", allow=["my_parts"])
assert type(model.denoiser) is my_parts.MaskedDenoiser and type(model.schedule) is my_parts.Trigonometric
assert type(model.codec.autoencoder) is my_parts.FoldedPixels
sampling = ["--num", "1", "--sampler", "euler", "--format", "npz", "--out", "s"]
assert sample_short.main(["runs/joint/model.safetensors", *sampling, *own]) == 0
np.save("real.npy", np.random.default_rng(0).integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8))
np.save("fake.npy", np.random.default_rng(1).integers(0, 256, (4, 4, 16, 16, 3), dtype=np.uint8))
measuring = ["--real", "real.npy", "--fake", "fake.npy", "--protocol", "mine", "--allow-fewer", "--out", "r.json"]
assert evaluate.main([*measuring, *own]) == 0
print(json.dumps(json.load(open("r.json"))["metrics"]))
"""


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_blocks_of_python_md_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    names: dict[str, object] = {}
    for block in blocks("python.md"):
        if block.startswith(NEEDS):
            call = ast.parse(block).body[0].value
            inspect.signature(lvdm.convert).bind(*map(ast.literal_eval, call.args), **{k.arg: k.value for k in call.keywords})
            continue
        for number, fewer in FEWER.items():
            block = block.replace(number, fewer)
        exec(block, names)  # noqa: S102
    assert names["run"].steps == names["joint"].steps == 2
    assert np.array_equal(np.stack(names["continued"])[:32], names["start"]) is False  # the codec's version of it
    assert len(names["continued"]) == 40 and len(names["written"].paths) == 8
    assert {path.suffix for path in (tmp_path / "results").iterdir()} == {".json", ".jsonl"}


def test_the_functions_of_the_table_are_those_of_the_package() -> None:
    table = re.findall(r"`lvdm\.(\w+)`", (ROOT / "docs" / "python.md").read_text().split("## Train")[0])
    functions = {name for name in dir(lvdm) if inspect.isfunction(getattr(lvdm, name))}
    assert functions <= set(table) and set(dir(lvdm)) >= set(table)


@pytest.fixture
def own_configs(tmp_path: Path, made: Path) -> tuple[str, str]:
    """A diffusion stage on videos, and an autoencoder, with every part of the page."""

    def mine(name: str, **params: object) -> dict[str, object]:
        return {"target": f"my_parts.{name}", "params": params}

    codec = {**CODEC, "params": {"autoencoder": mine("FoldedPixels")}}
    stepping = {"optimizer": mine("Momentum", lr=0.001), "learning_rate": mine("Halving")}
    model = {
        "target": "lvdm.training.LatentDiffusion",
        "params": {
            **{"denoiser": mine("MaskedDenoiser", channels=12), "codec": codec, "schedule": mine("Trigonometric")},
            **{"objective": mine("MinusX0"), "times": mine("EarlyTimes"), "loss": mine("ScaledError"), "num_latents": 4},
            **{"tasks": {"ends": {"target": "lvdm.training.Task", "params": {"mask": mine("LastFrames", count=1)}}}, **stepping},
        },
    }
    videos = video_set(made / "videos", num_frames=4)
    joint = {
        **{
            "model": model,
            "data": data_of(videos, videos),
            "trainer": {**TRAINER, "callbacks": [mine("CountSteps", path="steps")]},
        },
        **{"codec_weights": "runs/autoencoder/model.safetensors", "out": "runs", "name": "joint", "previews": {"num": 0}},
        "sampling": {"latent_shape": [12, 4, 8, 8], "fps": 8, "steps": 2, "sampler": "euler", "spacing": "trailing"},
    }
    autoencoder = autoencoder_config(made / "videos", tmp_path)
    autoencoder |= {"out": "runs", "name": "autoencoder", "previews": {"num": 0}}
    autoencoder["model"]["params"] |= {"codec": codec, "loss": mine("Charbonnier"), **stepping}
    return write_config(tmp_path / "joint.yaml", joint), write_config(tmp_path / "autoencoder.yaml", autoencoder)


def test_every_part_of_extending_md_is_used_by_the_commands(own_configs: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text("\n".join(blocks("extending.md")))
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "LVDM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE, *own_configs]
    done = subprocess.run(command, cwd=tmp_path, env={**environment, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    real, fake = (np.load(tmp_path / f"{side}.npy").astype(np.float32).mean((1, 2, 3)) for side in ("real", "fake"))
    (value,) = json.loads(done.stdout.splitlines()[-1]).values()
    assert value["value"] == pytest.approx(float(np.abs(real.mean(0) - fake.mean(0)).sum()), rel=5e-3)  # the protocol resizes
    assert (tmp_path / "steps").read_text() == "1\n2\n"
