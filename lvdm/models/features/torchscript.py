"""StyleGAN-V's I3D and C3D as TorchScript files: networks whose code comes with the weights.

Loading such a file runs code of its author, which reading tensors never does. So one is loaded only where its whole sha256 is
known here, or where the user has named it in LVDM_TRUST_TORCHSCRIPT (several with commas between).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lvdm.models.features.weights import DAMAGE, KNOWN, sha256_of
from lvdm.types import UserError

TRUST = "LVDM_TRUST_TORCHSCRIPT"


def load_torchscript(path: Path, *, instead: str) -> nn.Module:
    """Return the network on the CPU, in evaluation mode; `instead` says what to do without the file."""
    digest = sha256_of(path)
    known = KNOWN[path.name].sha256 if path.name in KNOWN else None
    if digest not in {known, *os.environ.get(TRUST, "").replace(",", " ").split()}:
        raise UserError(
            f"{path} is TorchScript, which runs code that comes in the file, and nobody has vouched for its sha256 {digest}; "
            f"if you trust it set {TRUST}={digest}, or {instead}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch advises another format, but the file is as it is
            return torch.jit.load(path, map_location="cpu").eval()
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read as TorchScript; put a whole file there, or {instead}") from error


class Scripted(nn.Module):
    """uint8 RGB (b, 3, t, h, w) -> features (b, d): the file scales and resizes by itself.

    It gets contiguous clips, as in StyleGAN-V (src/metrics/metric_utils.py:234). Its own squeezes may drop the axis of a single
    clip. Without a fuser the first calls compute as all later ones do.

    Args:
        scripted: the network of the file.
        flags: the keyword arguments with which it is called.
    """

    def __init__(self, scripted: nn.Module, flags: Mapping[str, bool]) -> None:
        super().__init__()
        self.scripted, self.flags = scripted, dict(flags)

    def forward(self, video: Tensor) -> Tensor:
        with torch.jit.fuser("none"):
            return self.scripted(video.contiguous(), **self.flags).reshape(len(video), -1)
