"""How the given frames of a window are perturbed, and whether the loss counts them: LVDM section 3.3."""

from __future__ import annotations

from typing import Literal

from lvdm.types import UserError


class GivenFrames:
    """The treatment of a window's given frames.

    Args:
        loss: "all" counts them in the loss, as published; "new" does not, and is the mean over all new frames of a step.
        max_level: their noise level is drawn from [0, max_level) (conditional latent perturbation).
        clean_fraction: how often they are left clean (level 0) instead.
    """

    def __init__(self, *, loss: Literal["all", "new"] = "all", max_level: int = 250, clean_fraction: float = 0.0) -> None:
        if loss not in ("all", "new"):
            raise UserError(f"given.loss is 'all' or 'new', not {loss!r}")
        if not 1 <= max_level < 2**31 or not 0 <= clean_fraction <= 1:
            raise UserError(f"given.max_level is {max_level}, at least 1, and given.clean_fraction {clean_fraction}, from 0 to 1")
        self.loss, self.max_level, self.clean_fraction = loss, max_level, clean_fraction
