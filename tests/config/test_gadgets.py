"""No config builds a callable that imports, loads, writes, connects or starts something, wherever in a config or file it stands.

The attempts run in a process of their own under an audit hook that refuses every write, program, library and socket.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuzz.audit import audited
from fuzz.gadgets import USED_IN_ATTACKS, gadgets
from tiny_training import AUTOENCODER, CODEC, UNET, autoencoder_config, diffusion_config, write_config

Node = dict[str, Any]


def hidings(target: str) -> Iterator[Node]:
    """Yield configs that hide a node, from the plainest to the deepest place."""
    node = {"target": target}
    yield node
    yield {"target": target, "params": {"path": "a_file", "args": ["a_file"], "host_name": "localhost", "port": 0}}
    yield {"target": "torch.nn.Identity", "params": {"anything": node}}
    yield {"target": "torch.nn.ParameterList", "params": {"values": [node]}}
    yield {"target": "torch.nn.Identity", "params": {"anything": [{"deep": {"deeper": [node]}}]}}
    yield {"target": "lvdm.models.denoisers.UNet3D", "params": {**UNET, "dropout": node}}
    yield {"target": "transformers.CLIPTextConfig", "params": {"id2label": {"0": node}}}


URLS = ("http://localhost:1/x", "reference://::http://localhost:1/x", "ftp://localhost:1/x", "a_folder")
ELSEWHERE = (  # classes on the list, which may stand only where an argument asks for one of their library
    *("pytorch_lightning.callbacks.EarlyStopping", "pytorch_lightning.callbacks.DeviceStatsMonitor"),
    *("pytorch_lightning.strategies.DDPStrategy", "transformers.CLIPModel", "transformers.CLIPTextConfig"),
    *("transformers.TimmWrapperModel", "transformers.TimmWrapperConfig", "diffusers.AutoencoderKL", "diffusers.UNet2DModel"),
)


def misused() -> Iterator[Node]:
    """Yield classes of the list in places that do not ask for them, with addresses in every argument that takes text."""
    for target in (*ELSEWHERE, *(f"pytorch_lightning.loggers.{name}Logger" for name in ("CSV", "TensorBoard", "Wandb"))):
        for place in (lambda node: node, lambda node: {"target": "torch.nn.ParameterList", "params": {"values": [node]}}):
            yield place({"target": target})
            for url in URLS:
                for name in ("save_dir", "architecture", "monitor", "process_group_backend", "norm_type", "_name_or_path"):
                    yield place({"target": target, "params": {name: url}})


def description(target: str, part: str) -> Node:
    """Return a model file's description with one part replaced by a node."""
    schedule, objective = {"target": "lvdm.diffusion.schedules.Cosine"}, {"target": "lvdm.diffusion.objectives.VObjective"}
    unet = {"target": "lvdm.models.denoisers.UNet3D", "params": UNET}
    parts = {"autoencoder": AUTOENCODER, "denoiser": unet, "schedule": schedule, "objective": objective, "text_encoder": None}
    sampling = {"latent_shape": [2, 4, 2, 2]}
    return {"kind": "diffusion", **parts, part: {"target": target}, "sampling": sampling, "text_fingerprint": "0"}


def attempts(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each attempt by its name; it must raise UserError, or as a command return 2."""
    from lvdm import load
    from lvdm.cli import eval as eval_command
    from lvdm.cli import sample_short, train
    from lvdm.config import check_node, instantiate

    for order, target in enumerate(gadgets()):
        everywhere = order < len(USED_IN_ATTACKS) or order % 10 == 0  # the others in two places, to save time
        for number, config in enumerate(hidings(target)):
            if number not in (0, 4) and not everywhere:
                continue
            yield f"check {number} {target}", lambda config=config: check_node(config)
            yield f"build {number} {target}", lambda config=config: instantiate(config)
    for number, config in enumerate(misused()):
        yield f"misuse {number}", lambda config=config: (check_node(config), instantiate(config))
    for file in sorted(folder.glob("*.safetensors")):
        yield f"load {file.name}", lambda file=file: load(file)
        if "denoiser" in file.name:
            fake = ["--real", str(folder), "--fake", str(file), "--protocol", "tats", "--features", "random"]
            yield f"sample_short {file.name}", lambda file=file: sample_short.main([str(file), "--num", "1"])
            yield f"eval {file.name}", lambda fake=fake: eval_command.main(fake)
    for file in sorted(folder.glob("*.yaml")):
        yield f"train {file.name}", lambda file=file: train.main([str(file), "--dry-run"])


def main(folder: Path) -> None:
    """Print what was tried and what was not refused, and the violations that the audit saw."""
    from lvdm.config import import_class
    from lvdm.types import UserError

    for target in ELSEWHERE:
        import_class(target)  # before the audit begins, because libraries run code of their own when they are imported

    tried, built = 0, []
    every = list(attempts(folder))
    with audited() as violations:
        for name, attempt in every:
            tried += 1
            try:
                if attempt() != 2:
                    built.append(name)
            except UserError:
                continue
    count = sum(name.startswith("check 0 ") for name, _ in every)
    print(json.dumps({"gadgets": count, "tried": tried, "built": built, "violations": violations}))


def test_no_gadget_is_built_from_a_config_or_a_model_file(tmp_path: Path):
    import torch

    from lvdm.checkpoints.model_file import ModelInfo, save_model

    for number, target in enumerate(USED_IN_ATTACKS):
        for part in ("autoencoder", "denoiser", "schedule", "text_encoder"):
            path = tmp_path / f"{part}-{number}.safetensors"
            save_model(path, {"codec.w": torch.zeros(1), "denoiser.w": torch.zeros(1)}, ModelInfo(**description(target, part)))
        if number < 4:  # the first ones, each a way of its own
            joint = diffusion_config(tmp_path, tmp_path / "runs", tmp_path / "ae.safetensors")
            joint["model"]["params"]["denoiser"] = {"target": "torch.nn.Identity", "params": {"x": {"target": target}}}
            write_config(tmp_path / f"joint-{number}.yaml", joint)
            auto = autoencoder_config(tmp_path, tmp_path / "runs")
            auto["model"]["params"]["codec"] = {**CODEC, "params": {"autoencoder": {"target": target}}}
            write_config(tmp_path / f"auto-{number}.yaml", {**auto, "trainer": {"strategy": {"target": target}}})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    isolated = ["unshare", "--map-root-user", "--net"]  # no network, where the system lets us take it away
    has_unshare = shutil.which("unshare") and subprocess.run([*isolated, "true"], capture_output=True).returncode == 0
    command = [*(isolated if has_unshare else []), sys.executable, __file__, str(tmp_path)]
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["gadgets"] >= 347 and report["tried"] > 4 * report["gadgets"]
    assert report["built"] == [] and report["violations"] == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


if __name__ == "__main__":
    main(Path(sys.argv[1]))
