"""From a network to the one function samplers see: (x_t, t) -> x0 (Ho & Salimans 2022; LVDM sec. 3.3).

Letters: x0_c with the condition, x0_u without, w guidance scale. One convention, here and everywhere:
    x0 = x0_c + w (x0_c - x0_u),   which is the same as   eps = eps_c + w (eps_c - eps_u),
because x0 is affine in eps and the factors 1 + w and -w sum to 1. w = 0 is off. (Others write 1 + w for our w.)
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lvdm.diffusion.objectives import Objective, check_compatible
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.types import Condition, Denoise, Denoiser, Predictor, UserError

logger = logging.getLogger(__name__)


def predict_x0(denoiser: Denoiser, objective: Objective, schedule: NoiseSchedule) -> Predictor:
    """Return the network as a predictor of x0. If it takes the level of given frames as their time, so does the conversion."""
    check_compatible(objective, schedule)

    def predict(x_t: Tensor, t: Tensor, cond: Condition | None) -> Tensor:
        output = denoiser(x_t, t, cond)
        if not (isinstance(output, Tensor) and output.is_floating_point() and output.shape == x_t.shape):  # might broadcast
            is_shaped = isinstance(output, Tensor) and output.is_floating_point()
            came = tuple(output.shape) if is_shaped else getattr(output, "dtype", type(output).__name__)
            what = f"{came} for a latent of shape {tuple(x_t.shape)}"
            raise UserError(f"{_name_of(denoiser)} returned {what}; a denoiser returns floats of the shape that it is given")
        time = cond.frame_times(t) if cond is not None and denoiser.inputs.noise_level == "time" else t
        return objective.x0(output, x_t, time, schedule)

    return predict


def _name_of(denoiser: Denoiser) -> str:
    return type(getattr(denoiser, "denoiser", denoiser)).__name__  # of the network that a wrapper, such as autocast, calls


def guided(predict: Predictor, cond: Condition | None, uncond: Condition | None = None, *, scale: float) -> Denoise:
    """Return the denoiser with guidance of weight w = `scale`, both passes in one batch; w = 0 is one pass.

    Without `uncond`, it is `cond` without its given frames. If `cond` has none, the passes are equal and only one is run."""
    if scale == 0 or (uncond is None and not _has_frames(cond)):
        if scale != 0 and cond is not None and (cond.context is not None or cond.label is not None):
            logger.warning("guidance %g has no effect: give the unconditional text or label as `uncond`", scale)
        return lambda x_t, t: predict(x_t, t, cond)

    given = Condition() if cond is None else cond
    both = Condition.join(given, given.without_frames() if uncond is None else uncond)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        x0_c, x0_u = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return x0_c + scale * (x0_c - x0_u)

    return denoise


def _has_frames(cond: Condition | None) -> bool:
    return cond is not None and (cond.mask is not None or cond.previous is not None)
