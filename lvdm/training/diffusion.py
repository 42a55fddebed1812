"""Training of a denoiser on any mixture of tasks: one loss, and one validation that is comparable between runs.

LVDM sections 3.2 to 3.4; mathematics in lvdm.diffusion. Letters: z latent, x0 clean, x_t noisy, t diffusion time, s level of
the given frames, m mask (1 = given), eps noise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lvdm.diffusion.loss_weights import UniformWeight
from lvdm.diffusion.losses import L2Loss
from lvdm.diffusion.masks import NoMask
from lvdm.diffusion.objectives import Objective, check_compatible
from lvdm.diffusion.process import q_sample
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.diffusion.training_times import TrainingTimes, UniformTimes, draw_levels
from lvdm.models.codec import Codec
from lvdm.rules import integer, number, require
from lvdm.sampling.trained import Trained
from lvdm.training.given_frames import GivenFrames
from lvdm.training.lightning_internals import has_trainer
from lvdm.training.optimizers import LearningRate, OptimizerSettings, SteppedModule
from lvdm.training.seeding import ALONE, Share, generator_for, sample_noise
from lvdm.training.tasks import Task, cut_windows, draw_tasks
from lvdm.types import ABSENT, Batch, Condition, TextEncoder, UserError, check_denoiser, check_inputs, check_labels

logger = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]  # (prediction, target) -> elementwise
Weight = Callable[[Tensor, NoiseSchedule, Objective], Tensor]  # (t, schedule, objective) -> shaped like t
VALIDATION_TIMES = 8  # evenly spread over the schedule, the same for every model and run


@dataclass(frozen=True)
class LossInputs:
    """The latents of one batch and everything that was sampled for its loss; the loss depends on these and the weights only."""

    x0: Tensor  # (b, c, t, h, w)
    eps: Tensor
    t: Tensor  # (b,)
    cond: Condition  # mask and level of the given frames, fps, label, text
    new_fraction: float | None = None  # fraction of frames that are not given, over all processes; None: computed from `cond`


@dataclass(frozen=True)
class DiffusionLoss:
    loss: Tensor
    prediction: Tensor
    target: Tensor
    x_in: Tensor


class LatentDiffusion(SteppedModule):
    """Trains a denoiser on a codec's latents, on any mixture of tasks.

    Args:
        denoiser: the network.
        codec: the frozen codec between videos and normalised latents.
        schedule, objective, loss, weight: the diffusion, each chosen independently. The loss is a function or module on
            (prediction, target) that returns a value per element.
        times: how the diffusion times of a batch are drawn; None is `UniformTimes`.
        num_latents: latent frames of a window.
        tasks: the tasks by name, one sampled per sample; None is {"short": Task()}, clips without given frames.
        given: how given frames are perturbed and whether they count in the loss.
        sample_posterior: train on samples of the autoencoder's posterior, as published, not on its mean.
        text_encoder: the frozen encoder of captions, and of the empty caption, for a denoiser that reads text.
        empty_caption: probability of replacing a caption by the empty one, for guidance (.1 is usual).
        label_dropout: probability of leaving a class out, which trains the null class that guidance by class needs.
        optimizer, learning_rate: the optimizer and the schedule of its rate.
        seed: all random numbers are functions of (seed, step, sample).
    """

    def __init__(
        self,
        *,
        denoiser: nn.Module,
        codec: Codec,
        schedule: NoiseSchedule,
        objective: Objective,
        num_latents: int,
        tasks: Mapping[str, Task] | None = None,
        loss: Loss | None = None,
        weight: Weight | None = None,
        times: TrainingTimes | None = None,
        given: GivenFrames | None = None,
        sample_posterior: bool = False,
        text_encoder: TextEncoder | None = None,
        empty_caption: float = 0.0,
        label_dropout: float = 0.0,
        optimizer: OptimizerSettings | None = None,
        learning_rate: LearningRate | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, learning_rate)
        require(integer(1, 2**16), num_latents=num_latents)
        require(integer(0), seed=seed)
        check_denoiser(denoiser)
        check_compatible(objective, schedule)
        self.denoiser: Any = denoiser  # a module that keeps the protocol Denoiser
        self.codec = codec
        self.schedule, self.objective = schedule, objective
        self.tasks, self.num_latents = dict(tasks or {"short": Task()}), num_latents
        self.elementwise_loss, self.weight = loss or L2Loss(), weight or UniformWeight()
        self.times = times or UniformTimes()
        self.given, self.sample_posterior, self.seed = given or GivenFrames(), sample_posterior, seed
        self.text_encoder, self.empty_caption, self.label_dropout = text_encoder, empty_caption, label_dropout
        self.trained: Trained | None = None  # what the run trains, for its previews and model file
        self._new_fractions: list[float] = []  # of the batches accumulated so far, if given frames do not count in the loss
        self._empty: Tensor | None = None  # the features of the empty caption, once they were needed
        self._check_given(is_set=given is not None)
        self._check_text()
        require(number(0, 1), label_dropout=label_dropout)
        if label_dropout and not self.num_labels:
            raise UserError("label_dropout has no effect on a denoiser without classes; leave it out, or set its num_labels")

    def _check_given(self, *, is_set: bool) -> None:
        """Refuse given frames that the network does not take, and levels that do not exist."""
        giving = [name for name, task in self.tasks.items() if not isinstance(task.mask, NoMask)]
        if not giving:
            if is_set:
                logger.warning("`given` has no effect: none of the tasks %s gives frames", ", ".join(self.tasks))
            return
        inputs = self.denoiser.inputs
        check_inputs({"mask"}, inputs, network=f"the task {giving[0]} gives frames, but the denoiser")
        levels = min(self.schedule.num_steps, inputs.num_noise_levels or self.schedule.num_steps)
        if self.given.max_level > levels:
            raise UserError(
                f"given.max_level is {self.given.max_level}, but there are {levels} levels: steps of the schedule, or the "
                "denoiser's num_noise_levels; lower it or raise those"
            )

    @property
    def num_labels(self) -> int:
        return self.denoiser.inputs.num_labels

    @property
    def reads_text(self) -> bool:
        return self.denoiser.inputs.context_dim is not None

    def _check_text(self) -> None:
        """The network and the text encoder go together."""
        if not 0 <= self.empty_caption <= 1:
            raise UserError(f"empty_caption is {self.empty_caption}, expected a fraction from 0 to 1; .1 is usual")
        if self.reads_text and self.text_encoder is None:
            raise UserError("the denoiser reads text, but there is none; give a text_encoder, or leave its context_dim out")
        if not self.reads_text and (self.text_encoder is not None or self.empty_caption):
            raise UserError(
                "text_encoder and empty_caption have no effect on a denoiser that reads no text; leave them out, or give it "
                "text_attention: true and a context_dim"
            )

    # One loss ------------------------------------------------------------------------------------------------------

    def draw(self, batch: Batch, tasks: list[Task], generator: torch.Generator, share: Share = ALONE) -> LossInputs:
        """Windows, times, levels and noise for one batch. `tasks` are those of all processes, `generator` is on the CPU and the
        same in each of them."""
        latents = self._latents(batch, generator, share)
        window = cut_windows(latents, tasks, self.num_latents, generator, share)
        t = self.schedule.time_at(self.times(len(tasks), generator))
        s = draw_levels(len(tasks), self.given.max_level, self.given.clean_fraction, generator)
        t, s = (share.of(each).to(latents.device) for each in (t, s))
        eps = sample_noise(window.z.shape, generator, share, latents.device)
        fps = batch["fps"].to(latents.device) / window.stride if "fps" in batch else None
        context = self.context_of(batch, latents.device)
        cond = Condition(mask=window.mask, frame_noise=s, fps=fps, label=batch.get("label"), context=context)
        return LossInputs(window.z, eps, t, cond, window.new_fraction)

    def loss(self, draw: LossInputs) -> DiffusionLoss:
        """Given frames carry level s, the others time t; the network gets the parts of the condition that it takes."""
        times = draw.cond.frame_times(draw.t)
        x_in = q_sample(draw.x0, draw.eps, times, self.schedule)
        prediction = self.denoiser(x_in, draw.t, draw.cond.taken_by(self.denoiser.inputs))
        target = self.objective.target(draw.x0, draw.eps, times, self.schedule)
        if prediction.shape != target.shape:  # which might broadcast
            shapes = f"shape {tuple(prediction.shape)}, expected that of the latent, {tuple(target.shape)}"
            raise UserError(f"{type(self.denoiser).__name__} returned {shapes}; correct its channels")
        error = self.elementwise_loss(prediction.float(), target)
        if error.shape != target.shape:
            shapes = f"shape {tuple(error.shape)}, expected {tuple(target.shape)}"
            raise UserError(f"the loss returned {shapes}; return a value per element, without a mean or sum")
        weight = self.weight(times, self.schedule, self.objective).to(error)
        error = error * weight.view(len(weight), 1, -1, *[1] * (error.ndim - 3))
        loss = error.mean() if self.given.loss == "all" else _mean_of_new(error, draw)
        return DiffusionLoss(loss, prediction, target, x_in)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator, share = generator_for(self.seed, self.global_step, batch_idx), self.share
        tasks = draw_tasks(self.tasks, len(batch["index"]) * share.processes, generator)
        draw = self.without_some_captions(self.draw(batch, tasks, generator, share), generator, share)
        draw = self.without_some_labels(draw, generator, share)
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + share.rank)  # of dropout, which takes no generator
        loss = self.loss(draw).loss
        self.log("train/loss", loss, prog_bar=True, batch_size=len(draw.t))
        if self.given.loss == "all" or not has_trainer(self) or self.trainer.accumulate_grad_batches == 1:
            return loss
        assert draw.new_fraction is not None
        self._new_fractions.append(max(draw.new_fraction, 1e-9))
        return loss * self._new_fractions[-1]  # a sum over new frames; the step divides by their number in all batches

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide accumulated gradients by the fraction of new frames, so that the step is that of one batch of all samples."""
        if self._new_fractions:
            fraction = sum(self._new_fractions) / len(self._new_fractions)
            for parameter in self.trained_parameters():
                if parameter.grad is not None:
                    parameter.grad /= fraction
            self._new_fractions.clear()

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the classes of a batch where that costs no synchronisation."""
        if self.num_labels:
            if "label" not in batch:
                raise UserError(
                    f"the denoiser has num_labels {self.num_labels}, but the data has no classes; give every item a label "
                    "(-1 for none), or leave num_labels out"
                )
            check_labels(batch["label"], self.num_labels)
        return batch

    # Text ------------------------------------------------------------------------------------------------------------

    def context_of(self, batch: Batch, device: torch.device) -> Tensor | None:
        """(b, n, d) from the cache, or of the captions; None for a network that reads no text."""
        if not self.reads_text:
            return None
        if "context" in batch:
            return batch["context"]
        if "caption" not in batch:
            raise UserError("the denoiser reads text, but the data has no captions; add them, such as in a metadata.jsonl")
        assert self.text_encoder is not None
        return self.text_encoder.to(device)(batch["caption"])

    def without_some_captions(self, draw: LossInputs, generator: torch.Generator, share: Share = ALONE) -> LossInputs:
        """The draw with the empty caption for a fraction of the samples; `generator` is the same in each process."""
        if draw.cond.context is None or self.empty_caption == 0:
            return draw
        is_empty = share.of(torch.rand(len(draw.t) * share.processes, generator=generator) < self.empty_caption)
        context = draw.cond.context
        chosen = torch.where(is_empty[:, None, None].to(context.device), self.empty_context().to(context), context)
        return replace(draw, cond=replace(draw.cond, context=chosen))

    def without_some_labels(self, draw: LossInputs, generator: torch.Generator, share: Share = ALONE) -> LossInputs:
        """Return the draw without class for a fraction of the samples; `generator` is the same in each process."""
        if draw.cond.label is None or self.label_dropout == 0:
            return draw
        is_left_out = share.of(torch.rand(len(draw.t) * share.processes, generator=generator) < self.label_dropout)
        label = draw.cond.label.masked_fill(is_left_out.to(draw.cond.label.device), ABSENT)
        return replace(draw, cond=replace(draw.cond, label=label))

    def empty_context(self) -> Tensor:
        """(1, n, d) of the empty caption."""
        if self._empty is None:
            assert self.text_encoder is not None
            self._empty = self.text_encoder([""]).to(self.device)
        return self._empty

    # Validation: the same samples, times and noise in every run ------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        b = len(batch["index"])
        for name, task in self.tasks.items():
            draw = self.draw(batch, [task] * b * self.share.processes, generator_for(1234, batch_idx), self.share)
            losses, errors = [], []
            for k in range(VALIDATION_TIMES):
                t = self.schedule.time_at(torch.full((b,), (k + 0.5) / VALIDATION_TIMES, dtype=torch.float64))
                at_t = replace(draw, t=t.to(draw.t.device))
                out = self.loss(at_t)
                losses.append(out.loss)
                errors.append(self._v_error(at_t, out))
            self.log(f"val/{name}_loss", torch.stack(losses).mean(), batch_size=b, sync_dist=True)
            self.log(f"val/{name}_v_mse", torch.stack(errors).mean(), batch_size=b, sync_dist=True)

    def _v_error(self, draw: LossInputs, out: DiffusionLoss) -> Tensor:
        """Mean squared error of v over the frames to be made, whatever the objective: |x0 error|^2 / sigma^2."""
        times = draw.cond.frame_times(draw.t)
        x0 = self.objective.x0(out.prediction.float(), out.x_in, times, self.schedule)
        _, sigma = self.schedule.alpha_sigma(times, draw.x0)
        return _mean_of_new(((x0 - draw.x0) / sigma.clamp(min=1e-4)) ** 2, draw)

    # Plumbing --------------------------------------------------------------------------------------------------------

    def trained_parameters(self) -> Iterable[Parameter]:
        """Yield the parameters of the denoiser, and of a loss or weight that is a module with parameters."""
        parts = (self.denoiser, self.elementwise_loss, self.weight)
        return (p for part in parts if isinstance(part, nn.Module) for p in part.parameters() if p.requires_grad)

    def _latents(self, batch: Batch, generator: torch.Generator, share: Share) -> Tensor:
        """Return latents of pixels or of the cache: the mean of the posterior, or a sample of it by the same draws."""
        if "latent" in batch:
            mean, std = batch["latent"], batch.get("latent_std")
        else:
            mean, std = (each.float() for each in self.codec.moments(batch["video"]))
        if not self.sample_posterior:
            return mean
        if std is None:
            raise UserError("sample_posterior needs latents with std: encode with std=true, and give LatentClips std: true")
        return mean + std * sample_noise(mean.shape, generator, share, mean.device)


def _mean_of_new(error: Tensor, draw: LossInputs) -> Tensor:
    """Return the mean over the elements of frames that are not given.

    The divisor is their average number in a process, so that the mean over processes is the mean over all frames.
    """
    assert draw.cond.mask is not None
    new = 1 - draw.cond.mask
    fraction = new.mean().clamp(min=1e-9) if draw.new_fraction is None else max(draw.new_fraction, 1e-9)
    return (error * new).mean() / fraction
