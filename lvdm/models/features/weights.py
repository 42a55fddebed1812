"""Published weights as files: in the folder LVDM_WEIGHTS, else in torch's own cache; fetched once where there is a network."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from lvdm.types import UserError


def weights_folder() -> Path:
    said = os.environ.get("LVDM_WEIGHTS")
    return Path(said).expanduser() if said else Path(torch.hub.get_dir()) / "checkpoints"


def read_weights(name: str, *, url: str, without: str) -> dict[str, Any]:
    """The tensors of a file of this name; `without` says how to do without them."""
    path = weights_folder() / name
    try:
        if path.exists():
            return torch.load(path, map_location="cpu", weights_only=True)
        return torch.hub.load_state_dict_from_url(
            url,
            model_dir=str(path.parent),
            map_location="cpu",
            progress=False,
            check_hash=True,
            file_name=name,
            weights_only=True,
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = f"cannot be read ({error})" if path.exists() else f"is not there and could not be fetched from {url} ({error})"
        raise UserError(f"{path} {why}; put it there, name its folder by LVDM_WEIGHTS, or {without}") from error
