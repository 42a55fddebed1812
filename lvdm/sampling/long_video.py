"""Sample the plan of a long video: keys one window after another, gaps in batches, latents out in order (LVDM section 3.3).

Conditional latent perturbation: the given latents of a window are noised once to level s, written into x before every call of the
network, and the network is given s. The clean ones are kept.
Letters: b batch, v videos, c channels, t latents of a window, h w; m mask (1 = given), s level of given latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lvdm.batching import Batches, taking_back
from lvdm.diffusion.guidance import guided
from lvdm.diffusion.masks import write_frames
from lvdm.diffusion.process import q_sample
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.sampling.content import Content
from lvdm.sampling.noise import VideoNoise
from lvdm.sampling.samplers import OnStep
from lvdm.sampling.solver import Solver
from lvdm.sampling.windows import Plan, Window
from lvdm.types import Condition, Denoise, DenoiserInputs, Noise, Predictor

NoiseFor = Callable[[str, int], VideoNoise]  # ("key" or "gap", index of the window) -> its noise, from the beginning
OnLatents = Callable[[float], None]  # called with the latents sampled since the last call, in fractions within a window


@dataclass(frozen=True)
class WindowSampler:
    """A network that samples windows with some latents given.

    Args:
        predict: the network as a predictor of x0.
        schedule: of the network; levels are its times.
        solver: which sampler on which grid.
        level: s, the time of the table whose noise the given latents carry; 0 leaves them clean.
        guidance: weight w against the pass that is given nothing; 0 is one pass.
        fps: frames per second of a window as the network sees it; None if it takes none.
        inputs: what the network takes.
        content: what the videos show. If it guides, guidance is against the pass without it, and given frames stay.
    """

    predict: Predictor
    schedule: NoiseSchedule
    solver: Solver
    level: int
    guidance: float
    fps: float | None
    inputs: DenoiserInputs = DenoiserInputs(mask=True, noise_level="time", fps=True)
    content: Content = Content()

    @torch.no_grad()
    def __call__(self, frames: Tensor, given: Sequence[int], noise: Noise, on_step: OnStep | None = None) -> Tensor:
        """Sample windows shaped like `frames` (b, c, t, h, w), which are read in the slots `given`."""
        x = noise(frames.shape).to(frames)
        mask = torch.zeros(len(frames), 1, frames.shape[2], 1, 1, device=frames.device)
        mask[:, :, list(given)] = 1
        if not given:
            return self.solver(self._guided(frames, mask, self.content.guides), x, noise=noise, on_step=on_step)
        written = self._perturbed(frames, noise) * mask
        denoise = self._guided(written, mask, True)
        return self.solver(denoise, x, noise=noise, before_step=lambda x: write_frames(x, written, mask), on_step=on_step)

    def _guided(self, frames: Tensor, mask: Tensor, has_other_pass: bool) -> Denoise:
        cond = self._condition(frames, mask)
        other = self.content.left_out(cond) if self.content.guides else None
        return guided(self.predict, cond, other, scale=self.guidance if has_other_pass else 0.0)

    def _perturbed(self, frames: Tensor, noise: Noise) -> Tensor:
        if self.level == 0:
            return frames
        s = torch.full((len(frames),), self.level, device=frames.device)
        return q_sample(frames, noise(frames.shape).to(frames), s, self.schedule)

    def _condition(self, frames: Tensor, mask: Tensor) -> Condition:
        """Return the condition of a window. It has the level also if nothing is given, as in training."""

        def per_sample(value: float) -> Tensor:
            return torch.full((len(frames),), value, device=frames.device)

        cond = Condition(
            frames=frames,
            mask=mask,
            frame_noise=per_sample(self.level),
            fps=None if self.fps is None else per_sample(float(self.fps)),
        )
        return self.content.given_to(cond, len(frames)).taken_by(self.inputs)


@torch.no_grad()
def long_latents(
    plan: Plan,
    *,
    keys: WindowSampler,
    gaps: WindowSampler | None,
    start: Tensor,
    noise_for: NoiseFor,
    gap_batch: int = 1,
    on_latents: OnLatents | None = None,
    shrinks: bool = True,
) -> Iterator[Tensor]:
    """Yield latents (v, c, n, h, w) of the whole video in order, with any n; only those still needed are held.

    Args:
        start: (v, c, plan.start_latents, h, w), known latents; without a start there are none, but in the right shape.
        gap_batch: gap windows filled at once (for all videos).
        shrinks: whether a batch that does not fit the memory runs again in halves.
    """
    line = _Line(start, plan.latents)
    batches = {stage: Batches("windows", shrinks=shrinks) for stage in ("key", "gap")}
    maker = _Maker(plan, keys, gaps, line, noise_for, on_latents, batches)
    yield from line.ready()
    waiting: list[tuple[int, Window]] = []
    next_key = 0
    for stage, index, window in plan.in_order():
        if stage == "key":
            maker.make("key", [(index, window)])
            next_key = index + 1
        else:
            waiting.append((index, window))
            if len(waiting) == gap_batch:
                maker.make("gap", waiting)
                waiting = []
        yield from line.ready()
        line.forget_before(_first_needed(plan, next_key, waiting[0][0] if waiting else maker.gaps_done))
    if waiting:
        maker.make("gap", waiting)
        yield from line.ready()


def _first_needed(plan: Plan, next_key: int, next_gap: int) -> int:
    """Return the first latent that a later window may be given."""
    needed = [plan.latents]
    if next_key < plan.num_key_windows:
        needed.append(plan.key_window(next_key).positions[0])
    if next_gap < plan.num_gap_windows:
        needed.append(plan.gap_window_at(next_gap).positions[0])
    return min(needed)


class _Line:
    """The latents sampled so far, by position, until they are yielded and no longer needed."""

    def __init__(self, start: Tensor, end: int) -> None:
        self.like = start[:, :, :0]  # shape, device and type of all latents
        self._known = {position: start[:, :, position] for position in range(start.shape[2])}
        self._next_out, self._end = 0, end

    def gather(self, windows: Sequence[Window]) -> Tensor:
        """Return (windows v, c, t, h, w) with the given latents in their slots, zeros elsewhere."""
        v, c, _, h, w = self.like.shape
        frames = self.like.new_zeros(len(windows), v, c, len(windows[0].positions), h, w)
        for i, window in enumerate(windows):
            for slot in window.given:
                frames[i, :, :, slot] = self._known[window.positions[slot]]
        return frames.flatten(0, 1)

    def keep(self, windows: Sequence[Window], latents: Tensor) -> None:
        """Store the new latents of windows sampled together, (windows v, c, t, h, w)."""
        for window, made in zip(windows, latents.unflatten(0, (len(windows), -1)), strict=True):
            for slot in window.new:
                self._known[window.positions[slot]] = made[:, :, slot].clone()

    def ready(self) -> Iterator[Tensor]:
        """Yield the latents that follow those yielded before without a gap, as one chunk, if there are any."""
        out = []
        while self._next_out < self._end and self._next_out in self._known:
            out.append(self._known[self._next_out])
            self._next_out += 1
        if out:
            yield torch.stack(out, dim=2)

    def forget_before(self, position: int) -> None:
        for known in [known for known in self._known if known < min(position, self._next_out)]:
            del self._known[known]


@dataclass
class _Maker:
    """Runs the networks on windows and stores the results in the line."""

    plan: Plan
    keys: WindowSampler
    gaps: WindowSampler | None
    line: _Line
    noise_for: NoiseFor
    on_latents: OnLatents | None
    batches: dict[str, Batches]
    gaps_done: int = 0

    def make(self, stage: str, numbered: Sequence[tuple[int, Window]]) -> None:
        """Sample these windows together, with the noise that belongs to each, in as many batches as the memory needs."""
        sampler = self.keys if stage == "key" else self.gaps
        assert sampler is not None, "a plan with gaps needs an infill model"
        windows = [window for _, window in numbered]
        frames, share = self.line.gather(windows), self._share(windows, len(sampler.solver.grid))

        def sample(rows: slice) -> Tensor:
            noise = VideoNoise.join([self.noise_for(stage, index) for index, _ in numbered], rows)
            with taking_back(self.on_latents or (lambda share: None)) as report:
                return sampler(frames[rows], windows[0].given, noise, lambda step: report(share * len(noise)))

        made = [*self.batches[stage].over(len(frames), sample)]
        self.line.keep(windows, torch.cat(made))
        self.gaps_done += len(windows) if stage == "gap" else 0

    def _share(self, windows: Sequence[Window], steps: int) -> float:
        """Return the latents, in fractions, that one step of one row stands for."""
        new = sum(window.positions[slot] < self.plan.latents for window in windows for slot in window.new)
        return new / len(windows) / steps
