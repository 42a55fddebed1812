"""A stand-in for a text encoder, without weights, where only the shape of what it gives matters: speed and memory."""

from __future__ import annotations

import torch
from torch import Tensor

CAPTION_TOKENS = 77  # CLIP's


class RandomText:
    """Any captions to random features (b, n, d) of this width."""

    def __init__(self, width: int) -> None:
        self.width, self.device = width, torch.device("cpu")

    def __call__(self, captions: list[str]) -> Tensor:
        return torch.rand(len(captions), CAPTION_TOKENS, self.width, device=self.device)

    def to(self, device: torch.device | str) -> RandomText:
        self.device = torch.device(device)
        return self

    def fingerprint(self) -> str:
        return f"random {self.width}"
