"""Class paths of earlier versions: old model files, checkpoints and configs name them, and still load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _task(mask: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    return {"target": "lvdm.training.Task", "params": params if mask is None else {**params, "mask": mask}}


def _mask(name: str, **params: Any) -> dict[str, Any]:
    return {"target": f"lvdm.diffusion.masks.{name}", "params": params}


STAGES = {  # subclasses of LatentDiffusion in version 0.1, and the tasks of a config that named none
    "ShortDiffusion": {"short": _task()},
    "PredictDiffusion": {
        "predict": _task(
            _mask("Mixture", masks=[_mask("FirstFrames", counts=[1]), _mask("NoMask")], probabilities=[0.5, 0.5]), stride=4
        )
    },
    "InfillDiffusion": {"infill": _task(_mask("Mixture", masks=[_mask("BothEnds"), _mask("NoMask")], probabilities=[0.9, 0.1]))},
    "JointDiffusion": {
        "short": _task(stride=4, weight=0.35),
        "predict": _task(_mask("FirstFrames", counts=[3, 4, 5]), stride=4, weight=0.42),
        "infill": _task(_mask("EveryKth", k=4), stride=1, weight=0.23),
    },
}
MOVED = {  # a module or a class in version 0.1 -> its path today
    "lvdm.data.datasets": "lvdm.data.video_folder",
    "lvdm.data.shards": "lvdm.data.layouts.shards",
    "lvdm.data.splits": "lvdm.data.layouts.splits",
    "lvdm.data.tables": "lvdm.data.layouts.tables",
    "lvdm.data.ucf101": "lvdm.data.layouts.ucf101",
    "lvdm.diffusion.objective": "lvdm.diffusion.objectives",
    "lvdm.diffusion.schedule": "lvdm.diffusion.schedules",
    "lvdm.diffusion.weights": "lvdm.diffusion.loss_weights",
    "lvdm.training.diffusion.GivenFrames": "lvdm.training.given_frames.GivenFrames",
    **{f"lvdm.training.{name}": "lvdm.training.LatentDiffusion" for name in STAGES},
    **{f"lvdm.training.stages.{name}": "lvdm.training.LatentDiffusion" for name in STAGES},
}


def current_path(target: str) -> str:
    """Return today's path of a class, given its path in a file of any version."""
    place, _, name = target.rpartition(".")
    return MOVED.get(target) or f"{MOVED.get(place, place)}.{name}"


def current_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node of any version as it is written today: with its class's path, and the tasks that a stage implied."""
    target, params = node["target"], node.get("params")
    if not isinstance(target, str):
        return dict(node)
    is_stage = current_path(target) == "lvdm.training.LatentDiffusion" != target
    if is_stage and isinstance(params, (Mapping, type(None))) and not (params or {}).get("tasks"):
        params = {**(params or {}), "tasks": STAGES[target.rpartition(".")[2]]}
    return {**node, "target": current_path(target), "params": params}
