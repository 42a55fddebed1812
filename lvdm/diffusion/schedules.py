"""How much signal is left at each time: noise schedules (DDPM sec. 4; Nichol & Dhariwal 2021 sec. 3.2; Lin et al. 2023 sec. 3.1).

Letters: t diffusion time in 0..T-1, beta noise added by one step, alpha_bar = prod(1 - beta) signal power,
alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), SNR = alpha_bar / (1 - alpha_bar).
Here alpha is the whole way's signal, as in x_t = alpha x0 + sigma eps, not one step's 1 - beta.
Tables are float64; values are cast when they meet a sample, to the sample's type or float32, whichever is finer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lvdm.rules import integer, number, require
from lvdm.types import UserError


class NoiseSchedule:
    """A table of alpha_bar over the times 0..T-1, falling (on the CPU, whatever the default device), with two optional changes
    to it, made in this order: `snr_shift` k divides sqrt(SNR) by k (k > 1 is more noise, as larger or longer latents want), and
    `zero_terminal_snr` rescales so that the last time is pure noise."""

    def __init__(self, alpha_bar: Tensor, *, zero_terminal_snr: bool = False, snr_shift: float = 1.0) -> None:
        require(number(1e-3, 1e3), snr_shift=snr_shift)  # 1 leaves the schedule as it is, 2 is noisier
        table = alpha_bar.double()
        if snr_shift != 1.0:
            table = shift_snr(table, snr_shift)
        if zero_terminal_snr:
            table = rescale_to_zero_terminal_snr(table)
        if not (bool((table[1:] < table[:-1]).all()) and 0 <= float(table[-1]) < float(table[0]) < 1):
            raise UserError(
                f"alpha_bar goes from {float(table[0]):g} to {float(table[-1]):g} in {len(table)} steps, expected that it falls "
                "at every step, from below 1 to 0 or above; take published values of the schedule"
            )
        self.table = table  # (T,) float64
        self.num_steps = len(table)
        self.has_zero_terminal_snr = float(table[-1]) == 0.0
        self._on_device: dict[torch.device, Tensor] = {table.device: table}

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Signal power at times t of any shape: float64, same shape, on t's device."""
        if t.device not in self._on_device:
            self._on_device[t.device] = self.table.to(t.device)
        return self._on_device[t.device][t]

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t (b,) or per frame (b, T), shaped to multiply `like` (b, c, ...)."""
        alpha_bar = self.alpha_bar(t)
        return expand_to(alpha_bar.sqrt(), like), expand_to((1 - alpha_bar).sqrt(), like)


class SqrtLinear(NoiseSchedule):
    """beta = linspace(sqrt(start), sqrt(end), T)^2: what LVDM and latent diffusion call "linear"."""

    def __init__(
        self,
        num_steps: int = 1000,
        start: float = 0.0015,
        end: float = 0.0155,
        *,
        zero_terminal_snr: bool = False,
        snr_shift: float = 1.0,
    ) -> None:
        _check_betas(num_steps, start, end)
        beta = torch.linspace(math.sqrt(start), math.sqrt(end), num_steps, dtype=torch.float64, device="cpu") ** 2
        super().__init__(alpha_bar_of(beta), zero_terminal_snr=zero_terminal_snr, snr_shift=snr_shift)


class Linear(NoiseSchedule):
    """beta = linspace(start, end, T), as in DDPM."""

    def __init__(
        self,
        num_steps: int = 1000,
        start: float = 1e-4,
        end: float = 2e-2,
        *,
        zero_terminal_snr: bool = False,
        snr_shift: float = 1.0,
    ) -> None:
        _check_betas(num_steps, start, end)
        beta = torch.linspace(start, end, num_steps, dtype=torch.float64, device="cpu")
        super().__init__(alpha_bar_of(beta), zero_terminal_snr=zero_terminal_snr, snr_shift=snr_shift)


class Cosine(NoiseSchedule):
    """alpha_bar follows cos^2 from time -1 (all signal) to T-1, with beta at most .999 (Nichol & Dhariwal eq. 17)."""

    def __init__(
        self, num_steps: int = 1000, offset: float = 0.008, *, zero_terminal_snr: bool = False, snr_shift: float = 1.0
    ) -> None:
        _check_num_steps(num_steps)
        require(number(0, 1), offset=offset)  # 0.008 is the published one
        u = torch.arange(num_steps + 1, dtype=torch.float64, device="cpu") / num_steps  # (T+1,)
        signal = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        super().__init__(alpha_bar_of(beta), zero_terminal_snr=zero_terminal_snr, snr_shift=snr_shift)


def alpha_bar_of(beta: Tensor) -> Tensor:  # DDPM, above eq. 4
    return (1 - beta).cumprod(dim=0)


def shift_snr(alpha_bar: Tensor, k: float) -> Tensor:
    """SNR / k^2 everywhere, written in alpha_bar."""
    return alpha_bar / (alpha_bar + k**2 * (1 - alpha_bar))


def rescale_to_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:  # Lin et al. 2023, algorithm 1
    """Move sqrt(alpha_bar) down so that the last is 0, and stretch it so that the first stays."""
    alpha = alpha_bar.sqrt()
    first, last = alpha[0], alpha[-1]
    rescaled = ((alpha - last) * first / (first - last)) ** 2
    rescaled[0] = alpha_bar[0]  # to the bit
    return rescaled


def expand_to(values: Tensor, like: Tensor) -> Tensor:
    """One value a sample (b,) -> (b, 1, 1, ...), one a frame (b, T) -> (b, 1, T, 1, ...); in like's type, at least float32."""
    assert values.ndim in (1, 2), f"expected one value per sample or per frame, got shape {tuple(values.shape)}"
    if values.ndim == 2:
        values = values[:, None]
    values = values.reshape(*values.shape, *[1] * (like.ndim - values.ndim))
    return values.to(torch.promote_types(like.dtype, torch.float32))


def _check_num_steps(num_steps: int) -> None:
    require(integer(2, 10**6), num_steps=num_steps)  # published models use 1000


def _check_betas(num_steps: int, start: float, end: float) -> None:
    _check_num_steps(num_steps)
    if not 0 < start <= end < 1:
        raise UserError(f"the schedule goes from beta {start} to {end}, expected 0 < start <= end < 1; DDPM uses 1e-4 and 2e-2")
