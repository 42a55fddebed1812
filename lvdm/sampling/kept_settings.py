"""The settings that are kept next to resumable videos, so that a folder never mixes videos of two models or of other settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from lvdm.files import why_not_written, write_new
from lvdm.types import UserError


def settings_file(folder: Path, seed: int) -> Path:
    return folder / f"seed{seed}-settings.json"


def compare_settings(folder: Path, seed: int, settings: Mapping[str, str]) -> None:
    """Refuse to resume with other settings than those of the existing videos of the seed."""
    kept = settings_file(folder, seed)
    if kept.exists():
        then = _read(kept)
        differing = sorted(name for name in {*then, *settings} if then.get(name) != settings.get(name))
        changed = [f"{name} ({then.get(name)} then, {settings.get(name)} now)" for name in differing]
        if changed:
            raise UserError(f"{kept} was started with other settings: {', '.join(changed)}; give those, or another folder")
    elif folder.is_dir() and any(re.match(rf"seed{seed}-\d{{5}}", path.name) for path in folder.iterdir()):
        raise UserError(f"{folder} has videos of seed {seed} that were made without resume; give another folder")


def keep_settings(folder: Path, seed: int, settings: Mapping[str, str]) -> None:
    """Write the settings if there are none; of two processes at once, one writes them and the other compares."""
    kept = settings_file(folder, seed)
    text = json.dumps(dict(settings), indent=2) + "\n"
    try:
        is_mine = not kept.exists() and write_new(kept, lambda path: path.write_text(text))
    except OSError as error:
        raise UserError(f"cannot write {kept}: {why_not_written(error)}; free space or choose another folder") from error
    if not is_mine:
        compare_settings(folder, seed, settings)


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and the videos next to it, or give another folder") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no settings; remove it and the videos next to it, or give another folder")
    return found
