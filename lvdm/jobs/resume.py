"""Which checkpoint a run is resumed from, and whether config and data still match it."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from lvdm.checkpoints.foreign import DAMAGE
from lvdm.config import current_node, is_node, load_config, to_dict, with_defaults
from lvdm.files import DamagedFile, is_verifying, note_without_hashes
from lvdm.jobs.run_config import RunConfig
from lvdm.jobs.run_folder import RunFolder
from lvdm.training.checkpoint_file import check_checkpoint_file
from lvdm.training.checkpointing import checkpoints_in
from lvdm.types import UserError

logger = logging.getLogger(__name__)

# What decides the weights. Anything else (length, paths, what is shown, device) may change from start to start.
DECIDING = ("model", "data.params.train", "data.params.seed", "seed", "average", "average_each_batch")
STEPPING = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches")  # of trainer
UNREADABLE = (*DAMAGE, pickle.UnpicklingError)  # what torch.load raises
MOVABLE = ("root", "folder", "in_memory", "time_limit", "max_broken")  # how data are read; their fingerprint is compared instead


def checkpoint_to_resume(folder: RunFolder, resume: str) -> Path | None:
    """Return the checkpoint to resume, None for a new run.

    `resume` is "auto" for the run's newest complete checkpoint, "never" to refuse an existing run, or a path.
    """
    if resume == "never":
        if folder.config.exists():
            raise UserError(f"the run {folder.path} exists; give another name, remove it, or resume it with resume=auto")
        return None
    if resume != "auto":
        if not Path(resume).is_file():
            raise UserError(f"there is no checkpoint {resume} to resume; give auto, never, or the path of a .ckpt file")
        return Path(resume)
    found = checkpoints_in(folder.checkpoints)
    for path in found:
        try:
            read_run_checkpoint(path)
        except UserError as error:
            if path == found[-1]:
                raise
            logger.warning("%s; trying the one before it", error)
        else:
            logger.info("resuming from %s", path.name)
            return path
    return None


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a run's checkpoint; its tensors stay on the disk."""
    try:
        is_hashed = check_checkpoint_file(path)
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except DamagedFile as error:
        raise UserError(f"{error}; resume from another one by its path, or remove it") from error
    except UNREADABLE as error:
        raise UserError(
            f"the checkpoint {path} is truncated, or of another program; resume from another one by its path, or remove it"
        ) from error
    if not isinstance(state, dict) or not {"state_dict", "optimizer_states", "global_step", "loops"} <= state.keys():
        raise UserError(f"{path} is not a checkpoint of a run; give one that lvdm wrote, such as runs/NAME/checkpoints/last.ckpt")
    if not is_hashed and is_verifying():
        note_without_hashes(path)
    return state


def check_unchanged(path: Path, settings: Mapping[str, Any], facts: Mapping[str, Any], *, allow_changes: bool) -> None:
    """Refuse to resume with another data set, batch or config than the checkpoint's, unless changes are allowed."""
    saved = read_run_checkpoint(path).get("callbacks", {}).get("SaveCheckpoints", {}).get("facts", {})
    changes = [f"{name} ({saved[name]} then, {now} now)" for name, now in facts.items() if saved.get(name, now) != now]
    config = path.parent.parent / "config.yaml"
    if config.exists():
        changes += changed_keys(to_dict(with_defaults(load_config([config]), RunConfig)), settings)
    if not changes:
        return
    named = ", ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")
    if not allow_changes:
        raise UserError(
            f"{path} was made with other settings: {named}; resume with those, allow changes, or start a run of another name"
        )
    logger.warning("resuming from %s with changes: %s", path, named)


def changed_keys(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the deciding settings that differ, with both values."""
    before, after = dict(_deciding(then)), dict(_deciding(now))
    return [
        f"{key} ({before.get(key, 'absent')} then, {after.get(key, 'absent')} now)"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _deciding(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in (*DECIDING, *(f"trainer.{name}" for name in STEPPING)):
        node: Any = settings
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        yield from _leaves(key, node)


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        node = current_node(node) if is_node(node) else node
        for name, item in node.items():
            if name not in MOVABLE:
                yield from _leaves(f"{key}.{name}", item)
    elif isinstance(node, (list, tuple)) and any(isinstance(each, (Mapping, list, tuple)) for each in node):
        for number, item in enumerate(node):
            yield from _leaves(f"{key}.{number}", item)
    elif node is not None:
        yield key, list(node) if isinstance(node, tuple) else node
