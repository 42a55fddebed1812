"""Every shell script runs: the experiments on published configs at toy size, the quick start by its tiny twin.

One chain, because each script needs what the one before has made: the quick start's data and models serve the others.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "shellscripts"
EXPERIMENTS = sorted([*SCRIPTS.glob("train_*.sh"), *SCRIPTS.glob("sample_*.sh"), SCRIPTS / "evaluate.sh"])
QUICK = {**os.environ, "LVDM_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CI": "true"}  # installs nothing

# The published configs at toy size, two steps long.
CODEC = "model.params.codec.params.autoencoder.params"
DENOISER = "model.params.denoiser.params"
TINY = [
    f"{CODEC}.channels=16",
    *(f"data.params.{split}.params.size=32" for split in ("train", "val")),
    *("data.params.num_workers=0", "data.params.batch_size=1"),
    *("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "trainer.accelerator=cpu"),
    *("trainer.accumulate_grad_batches=1", "trainer.enable_progress_bar=false", "previews.num=0"),
]
TINY_DENOISER = [
    *(f"{DENOISER}.model_channels=32", f"{DENOISER}.channel_mult=[1,1]", f"{DENOISER}.num_res_blocks=1"),
    *(f"{DENOISER}.attention_resolutions=[2]", "sampling.steps=2"),
]


def bash(script: str, *arguments: object, cwd: Path, **env: object) -> subprocess.CompletedProcess:
    command = ["bash", str(SCRIPTS / script), *map(str, arguments)]
    env = {**QUICK, **{name: str(value) for name, value in env.items()}}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def succeeds(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, f"{result.args}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("quick start")  # a space in every path
    return out, succeeds(bash("quickstart.sh", "--tiny", "--out", out, cwd=out))


def test_the_quick_start_makes_what_it_says_and_keeps_it(quickstart):
    out, said = quickstart
    for name in ("autoencoder", "joint", "predict", "infill"):
        assert (out / name / "model.safetensors").is_file()
    for folder in ("videos", "separate"):
        assert len(list((out / folder).glob("*.mp4"))) == 2
        scored = json.loads((out / f"{folder}-scores" / "scores.json").read_text())
        assert scored["videos"].keys() == {"seed0-00000", "seed0-00001"}
    named = [line.split("  ")[-1].strip() for line in said.splitlines() if line.startswith("contact sheet")]
    assert len(named) == 1 and Path(named[0]).is_file()
    again = bash("quickstart.sh", "--tiny", "--out", out, cwd=out)
    assert succeeds(again).count("kept  ") == 10 and not again.stderr


def test_the_comparisons_make_a_row_for_each_way(quickstart):
    out, _ = quickstart
    tiny = ["data.params.batch_size=2", "previews.num=0", f"{DENOISER}.channel_mult=[1,1]", f"{CODEC}.channels=[8,16]"]
    succeeds(bash("benchmark_toy.sh", *tiny, cwd=out, QUICKSTART=out, NUM=1, FRAMES=150, STEPS=2))
    rows = (out / "benchmark.md").read_text().splitlines()[2:]
    assert len(rows) == 10 and all(row.count("|") == 8 and "nan" not in row for row in rows)
    made = json.loads((out / "benchmark.json").read_text())["variants"]
    assert made["plain autoregressive"]["settings"]["infill"] == "none"
    assert made["noise .2"]["settings"]["condition_noise"] == "59"


def test_the_experiments_train_and_their_models_sample(quickstart, tmp_path):
    discs = quickstart[0] / "discs"
    videos = tmp_path / "my videos"
    videos.mkdir()
    (videos / "train").symlink_to(discs / "train")
    (videos / "test").symlink_to(discs / "val")
    model = tmp_path / "runs" / "{}_sky" / "model.safetensors"
    succeeds(bash("train_autoencoder.sh", *TINY, "model.params.loss.params={l1: 1.0}", cwd=tmp_path, VIDEOS=videos))
    autoencoder = str(model).format("autoencoder")
    for stage, latents in {"short": 4, "predict": 4, "infill": 5, "joint": 5}.items():
        settings = [*TINY, *TINY_DENOISER, f"sampling.latent_shape=[4,{latents},4,4]"]
        succeeds(bash(f"train_{stage}.sh", *settings, cwd=tmp_path, VIDEOS=videos, AUTOENCODER=autoencoder))
    succeeds(bash("sample_short.sh", "--num", 2, "--out", "short", cwd=tmp_path, MODEL=str(model).format("short")))
    both = {"PREDICT": str(model).format("predict"), "INFILL": str(model).format("infill")}
    succeeds(bash("sample_long.sh", "--frames", 100, "--gap-steps", 2, "--out", "long", cwd=tmp_path, **both))
    few = ["--features", "random", "--feature-width", 0.125, "--allow-fewer", 2, "--set", "resolution=32", "runs=1"]
    environment = {
        "PROTOCOL": "lvdm-fvd2048",
        "MODEL": str(model).format("short"),
        "REAL": videos,
        "LVDM_CACHE": tmp_path / "cache",
    }
    assert "not comparable" in succeeds(bash("evaluate.sh", *few, cwd=tmp_path, **environment))
    assert json.loads((tmp_path / "results" / "short_sky-lvdm-fvd2048-custom.json").read_text())["num_fake"] == 2
    assert len(list((tmp_path / "short").glob("*.mp4"))) == 2
    assert len(list((tmp_path / "long").glob("*.mp4"))) == 1


@pytest.mark.parametrize("script", EXPERIMENTS, ids=lambda path: path.name)
def test_an_experiment_says_what_it_needs_before_it_does_anything(script, tmp_path):
    needed = re.findall(r'^: "\$\{(\w+):\?', script.read_text(), re.MULTILINE)
    assert needed
    env = {name: value for name, value in QUICK.items() if name not in needed}
    result = subprocess.run(["bash", script], cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert result.returncode != 0
    assert needed[0] in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_an_experiment_told_in_full(script):
    text = script.read_text()
    header = text.split("\n: ", 1)[0] if script in EXPERIMENTS else text
    for word in ("# Hardware", "# Time", "# Result", f"bash shellscripts/{script.name}"):
        assert word in header, f"{script.name} does not say {word}"
    assert max(map(len, text.splitlines())) <= 130
    if script in EXPERIMENTS:
        assert text.rstrip().splitlines()[-1].startswith("launch ") and text.rstrip().endswith('"$@"')


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.s*")), ids=lambda path: path.name)
def test_help_is_the_header_and_needs_nothing(script, tmp_path):
    env = {"PATH": os.environ["PATH"], "PYTHON": "/nowhere", "VENV": str(tmp_path / "venv"), "LVDM_ROOT": str(ROOT)}
    for flag in ("--help", "-h"):
        result = subprocess.run(["bash", script, flag], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=20)
        lines = result.stdout.splitlines()
        assert result.returncode == 0 and not result.stderr and not list(tmp_path.iterdir())
        assert f"# {lines[0]}" == script.read_text().splitlines()[1] and any(line.startswith("Result ") for line in lines)
        assert not any(line.startswith(("#", ":", "source")) for line in lines)


def test_every_stage_has_its_experiment():
    stages = {path.stem.removesuffix("_sky") for path in (ROOT / "configs" / "lvdm").glob("*_sky.yaml")} - {"encode"}
    assert {path.stem.removeprefix("train_") for path in SCRIPTS.glob("train_*.sh")} == stages


@pytest.mark.parametrize("wrong, words", [(["--minutes", "soon"], "expected a number"), (["--sed", "1"], "does not know --sed")])
def test_the_quick_start_refuses_what_it_does_not_know(wrong, words, tmp_path):
    result = bash("quickstart.sh", *wrong, cwd=tmp_path)
    assert result.returncode == 2 and words in result.stderr


def test_launch_starts_as_many_processes_as_are_asked_for(tmp_path):
    script = tmp_path / "rank.sh"
    (tmp_path / "rank.py").write_text("import os; open(os.environ['RANK'], 'w').write(os.environ['WORLD_SIZE'])")
    script.write_text(f'source "{SCRIPTS}/setup.sh"\nlaunch rank.py "$@"\n')
    result = subprocess.run(["bash", script], cwd=tmp_path, env={**QUICK, "NPROC": "2"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]
