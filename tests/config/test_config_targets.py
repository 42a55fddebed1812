"""A target names a class of an allowed package, and nothing else is even imported; a misspelt one names the nearest."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny_training import CODEC, UNET

from lvdm.config import check_node, import_class, instantiate, path_of
from lvdm.config.targets import ROOMS, import_packages
from lvdm.models.denoisers import UNet3D
from lvdm.training import LatentDiffusion
from lvdm.types import UserError

HERE = __name__
PARAMS = {
    **{"denoiser": {"target": "lvdm.models.denoisers.UNet3D", "params": UNET}, "codec": CODEC, "num_latents": 4},
    **{
        "schedule": {"target": "lvdm.diffusion.schedules.Cosine"},
        "objective": {"target": "lvdm.diffusion.objectives.VObjective"},
    },
}


class Disc:
    pass


def a_function() -> None: ...


def test_nothing_outside_the_allowed_packages_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("harmful", "torchharm"):
        (tmp_path / f"{name}.py").write_text("import sys\nsys.was_harmed = True\nclass Thing: ...\n")
    for target in ("harmful.Thing", "torchharm.Thing", "harmful.Nothing", "torch.harmful.Thing", "lvdm.harmful.Thing"):
        node = {"target": "torch.nn.Sequential", "params": {"args": [{"deep": {"target": target}}]}}
        for use in (check_node, instantiate):
            with pytest.raises(UserError):
                use({"target": target})
            with pytest.raises(UserError):
                use(node)
    assert not hasattr(sys, "was_harmed") and not {"harmful", "torchharm"} & sys.modules.keys()
    check_node({"target": "harmful.Thing"}, allow=["harmful"])
    assert sys.was_harmed
    del sys.was_harmed, sys.modules["harmful"]


@pytest.mark.parametrize(
    "target, words",
    [
        ("os.system", "a config may name classes of lvdm .*, modules of torch.nn"),
        ("subprocess.Popen", "a config may name"),
        ("builtins.eval", "a config may name"),
        ("torch.load", "a config may name"),
        ("torch.hub.load", "a config may name"),
        ("torch.nn", "a config may name"),
        ("torch.nn.functional", "is a module, not a class"),
        ("torch.nn.Parameter", "really torch.nn.parameter.Parameter"),
        ("torch.nn.DataParallel", "really torch.nn.parallel"),
        ("torch.nn.modules.module.Tensor", "really torch.Tensor"),
        ("torch.optim.swa_utils.AveragedModel", "AveragedModel, but a config may name"),
        ("torch.nn.os.system", "a config may name"),
        ("torch._C.Generator", "a config may name"),
        ("transformers.pipeline", "a config may name"),
        ("transformers.AutoModel", "really transformers.models.auto"),
        ("diffusers.DiffusionPipeline", "a config may name"),
        ("diffusers.UNet2DOutput", "has no UNet2DOutput"),
        ("pytorch_lightning.callbacks.LambdaCallback", "a config may name"),
        ("lvdm.cli.train.main", "no class of lvdm that a config may name"),
        ("lvdm.models.codec.LatentMoments", "no class of lvdm that a config may name"),
        ("lvdm.models.codec.torch", "no class of lvdm that a config may name"),
        ("torch", "dotted path of a class"),
        ("torch.nn.Linear()", "dotted path of a class"),
        ("", "dotted path of a class"),
        (3, "dotted path of a class"),
        (["torch.nn.Linear"], "dotted path of a class"),
        ("torch.nn.Linaer", "did you mean torch.nn.Linear"),
        ("torch.nn.linear", "did you mean torch.nn.Linear"),
        ("torch.optm.AdamW", "did you mean torch.optim"),
        ("torh.nn.Linear", "did you mean torch.nn.Linear"),
        ("lvdm.datta.VideoFolder", "did you mean lvdm.data.video_folder.VideoFolder"),
        ("lvdm.cli.VideoFolder", "did you mean lvdm.data.video_folder.VideoFolder"),
        ("lvdm.data.VideoFoldr", "did you mean lvdm.data.video_folder.VideoFolder"),
        (f"{HERE}.a_function", "is a function"),
        (f"{HERE}.Dics", f"did you mean {HERE}.Disc"),
        (f"{HERE}.Path", "really pathlib"),
    ],
)
def test_a_target_is_a_class_of_an_allowed_package(target: Any, words: str):
    config = OmegaConf.create({"at": [{"target": target}]})
    for act in (lambda: check_node(config.at[0], key="at.0", allow=[HERE]), lambda: instantiate(config.at[0], allow=[HERE])):
        with pytest.raises(UserError, match=words) as error:
            act()
        assert str(error.value).startswith("at.0.target is")


def test_a_module_that_lacks_a_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needy.py").write_text("import no_such_package_of_mine\n")
    with pytest.raises(UserError, match="cannot be imported.*no_such_package_of_mine"):
        import_class("needy.Thing", allow=["needy"])
    with pytest.raises(UserError, match="install absent"):
        import_class("absent.Thing", allow=["absent"])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import no_such_package_of_mine", "cannot be imported: No module named 'no_such_package_of_mine'; install"),
        ("raise RuntimeError('broken')", "cannot be imported: RuntimeError: broken; correct it"),
        ("def (", "cannot be imported: SyntaxError"),
    ],
)
def test_an_allowed_package_that_cannot_be_imported_is_one_sentence(module, words, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_is_broken.py").write_text(module)
    with pytest.raises(UserError, match=words):
        import_packages(["mine_is_broken"])
    with pytest.raises(UserError, match="there is no module absent_package"):
        import_packages(["absent_package"])


def test_path_of_is_the_inverse_of_import_class():
    for cls in (torch.nn.Linear, torch.optim.AdamW, torch.optim.lr_scheduler.OneCycleLR, UNet3D):
        assert import_class(path_of(cls)) is cls


@pytest.mark.parametrize(
    "old",  # as version 0.1 wrote them into model files, checkpoints and configs
    [
        *(f"lvdm.data.{name}" for name in ("datasets.VideoFolder", "latents.LatentClips", "layouts.Taichi", "layouts.AnyVideos")),
        *(f"lvdm.data.{name}" for name in ("shards.TarShards", "splits.ListSplit", "tables.VideoTable", "ucf101.UCF101")),
        *(f"lvdm.diffusion.schedule.{name}" for name in ("SqrtLinear", "Linear", "Cosine")),
        *(f"lvdm.diffusion.objective.{name}Objective" for name in ("Eps", "X0", "V")),
        *(f"lvdm.diffusion.weights.{name}Weight" for name in ("Uniform", "MinSNR")),
    ],
)
def test_a_class_that_moved_is_found_under_its_old_path(old: str):
    assert import_class(old).__name__ == old.rpartition(".")[2]


@pytest.mark.parametrize("place", ["lvdm.training", "lvdm.training.stages"])
def test_a_stage_of_version_0_1_is_a_latent_diffusion_with_the_tasks_that_it_implied(place: str):
    """The masks and strides are those that the classes of version 0.1 had as defaults."""
    expected = {
        "Short": {"short": ("NoMask", 1, 1.0)},
        "Predict": {"predict": ("Mixture", 4, 1.0)},
        "Infill": {"infill": ("Mixture", 1, 1.0)},
        "Joint": {"short": ("NoMask", 4, 0.35), "predict": ("FirstFrames", 4, 0.42), "infill": ("EveryKth", 1, 0.23)},
    }
    for name, tasks in expected.items():
        node = {"target": f"{place}.{name}Diffusion", "params": PARAMS}
        check_node(node)
        model = instantiate(node)
        assert type(model) is LatentDiffusion
        assert {key: (type(each.mask).__name__, each.stride, each.weight) for key, each in model.tasks.items()} == tasks
    own = {**PARAMS, "tasks": {"mine": {"target": "lvdm.training.Task"}}}
    assert list(instantiate({"target": f"{place}.JointDiffusion", "params": own}).tasks) == ["mine"]


def test_every_room_lists_classes_that_are_there_and_a_folder_may_stand_for_their_file():
    for room in ROOMS:
        for path in importlib.import_module(f"lvdm.{room}").BUILDABLE:
            cls = import_class(f"lvdm.{room}.{path}")
            assert path_of(cls) == f"lvdm.{room}.{path}" and import_class(f"lvdm.{room}.{cls.__name__}") is cls
    assert import_class("lvdm.models.denoisers.UNet3D") is UNet3D
