"""Training of a video autoencoder, and the measurement of its latents' scale and shift, which all later stages use.

LVDM section 3.1. Letters: x video, y reconstruction, z latent.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lvdm.models.autoencoders.posterior import Posterior
from lvdm.models.codec import Codec, LatentMoments
from lvdm.models.features import psnr, ssim
from lvdm.rules import integer, require
from lvdm.training.adversary import Adversary, adaptive_weight
from lvdm.training.lightning_internals import all_gather, grad_scaler
from lvdm.training.optimizers import LearningRate, OptimizerSettings, SteppedModule
from lvdm.training.reconstruction import ReconstructionLoss, ReconstructionParts
from lvdm.training.seeding import generator_for, sample_noise
from lvdm.types import Batch, UserError

SECOND_PASS = 1  # last number of the place of its noise


@dataclass(frozen=True)
class Reconstruction:
    """A batch, its reconstruction, and the reconstruction loss."""

    video: Tensor
    reconstruction: Tensor
    terms: ReconstructionParts


@dataclass(frozen=True)
class Stepping:
    """The settings of `trainer` that a module with two optimizers applies itself, because Lightning does not."""

    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str = "norm"
    accumulate_grad_batches: int = 1


class AutoencoderTraining(SteppedModule):
    """Trains the autoencoder inside a codec, and at the end measures the scale and shift of its latents.

    Args:
        codec: the autoencoder with scale and shift; they are measured if they are 1 and 0, and kept otherwise.
        loss: the reconstruction loss: a module on (video, reconstruction, posterior, generator) that returns
            `ReconstructionParts`. The generator is for its random choices, and None in validation.
        adversary: the discriminators; None trains without.
        optimizer, learning_rate: the optimizer, and the schedule of its rate and of the discriminators'.
        measure_batches: number of training batches that scale and shift are measured on; 0 measures nothing.
        seed: the latent's noise is a function of (seed, step, sample).
    """

    def __init__(
        self,
        *,
        codec: Codec,
        loss: nn.Module | None = None,
        adversary: Adversary | None = None,
        optimizer: OptimizerSettings | None = None,
        learning_rate: LearningRate | None = None,
        measure_batches: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, learning_rate)
        require(integer(0), measure_batches=measure_batches, seed=seed)
        self.codec = codec
        self.measures_scale = (codec.scale, codec.shift) == (1.0, 0.0) and measure_batches > 0
        self._validated = LatentMoments()
        self.autoencoder.requires_grad_(True).train()
        self.loss = loss or ReconstructionLoss()
        self.measure_batches, self.seed = measure_batches, seed
        self.adversary, self.stepping = adversary, Stepping()
        self.automatic_optimization = adversary is None
        if adversary is not None and adversary.adaptive and getattr(self.autoencoder, "last_layer", None) is None:
            raise UserError(
                f"the adaptive weight needs the decoder's last layer, but {type(self.autoencoder).__name__} has no last_layer; "
                "add that property, or set adversary.params.adaptive: false"
            )

    @property
    def autoencoder(self) -> Any:
        return self.codec.autoencoder

    def train(self, mode: bool = True) -> AutoencoderTraining:
        """Set the mode of the autoencoder too, which a codec keeps in eval mode otherwise."""
        super().train(mode)
        self.autoencoder.train(mode)
        return self

    def setup(self, stage: str) -> None:
        if isinstance(self.loss, ReconstructionLoss):
            self.loss.load_features()

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = super().build_optimizers()
        if self.adversary is not None:
            optimizers.append(self.adversary.optimizer.build(self.adversary.trained_parameters()))
        return optimizers

    # One batch -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.adversary is None:
            return self.reconstruct(batch, batch_idx).terms.loss
        self._train_both(batch, batch_idx)
        return None

    def reconstruct(self, batch: Batch, batch_idx: int) -> Reconstruction:
        video = batch["video"]
        generator = generator_for(self.seed, self.global_step, batch_idx)
        posterior, reconstruction = self._sampled(video, generator)
        out = Reconstruction(video, reconstruction, self.loss(video, reconstruction, posterior, generator))
        self.log("train/loss", out.terms.loss, prog_bar=True, batch_size=len(video))
        self.log_dict({f"train/{name}": part for name, part in out.terms.parts.items()}, batch_size=len(video))
        return out

    def _sampled(self, video: Tensor, generator: torch.Generator) -> tuple[Posterior, Tensor]:
        """Return the posterior, and the reconstruction from a sample of it."""
        posterior = self.autoencoder.encode(video)
        noise = sample_noise(posterior.mean.shape, generator, self.share, video.device)
        return posterior, self.autoencoder.decode(posterior.at(noise))

    # Two networks in turn --------------------------------------------------------------------------------------------

    def _train_both(self, batch: Batch, batch_idx: int) -> None:
        """Run both backward passes, and step both networks when enough batches are accumulated.

        The autoencoder steps last, because its step changes the scale of 16-mixed losses; before a second pass it steps first.
        """
        assert self.adversary is not None
        is_due = (batch_idx + 1) % self.stepping.accumulate_grad_batches == 0 or self.trainer.is_last_batch
        losses = self.alternating_losses(batch, batch_idx)
        self.manual_backward(next(losses) / self.stepping.accumulate_grad_batches)
        if is_due and self.adversary.second_pass:
            self._step_autoencoder()
        for loss in losses:
            self.manual_backward(loss / self.stepping.accumulate_grad_batches)
        if is_due:
            self._step_discriminators()
        if is_due and not self.adversary.second_pass:
            self._step_autoencoder()

    def alternating_losses(self, batch: Batch, batch_idx: int) -> Iterator[Tensor]:
        """Yield the autoencoder's loss, then the discriminators'; run the backward pass of each before taking the next."""
        assert self.adversary is not None
        step, out = self.global_step, self.reconstruct(batch, batch_idx)
        if step < self.adversary.start_step:
            yield out.terms.loss
            return
        self.adversary.requires_grad_(False)
        generator_loss = self.adversary.generator_loss(out.reconstruction)
        is_adaptive = self.adversary.adaptive
        weight = self._adaptive_weight(out.terms.loss, generator_loss) if is_adaptive else torch.ones_like(generator_loss)
        yield out.terms.loss + self.adversary.weight * weight * generator_loss
        self.adversary.requires_grad_(True)
        shown = out.reconstruction.detach()
        if self.adversary.second_pass:
            with torch.no_grad():
                shown = self._sampled(out.video, generator_for(self.seed, step, batch_idx, SECOND_PASS))[1]
        discriminator_loss = self.adversary.discriminator_loss(out.video, shown)
        yield discriminator_loss
        parts = {"generator_loss": generator_loss, "adaptive_weight": weight, "discriminator_loss": discriminator_loss}
        self.log_dict({f"train/{name}": part for name, part in parts.items()}, batch_size=len(out.video))

    def _adaptive_weight(self, reconstruction_loss: Tensor, generator_loss: Tensor) -> Tensor:
        """Return the weight from gradients averaged over all processes, so that it is the same in each."""
        last, scaler = self.autoencoder.last_layer, grad_scaler(self)
        one = torch.ones_like(reconstruction_loss)
        scale = one if scaler is None else scaler.scale(one)  # float16 would round small gradients to zero
        losses = (reconstruction_loss, generator_loss)
        gradients = [torch.autograd.grad(loss * scale, last, retain_graph=True)[0] / scale for loss in losses]
        if self.share.processes > 1:
            gradients = [self.trainer.strategy.reduce(gradient, reduce_op="mean") for gradient in gradients]
        return adaptive_weight(*gradients)

    def _step_autoencoder(self) -> None:
        optimizers: Any = self.optimizers()  # lists, because there are two
        schedulers: Any = self.lr_schedulers()
        optimizers[0].step()
        optimizers[0].zero_grad()
        schedulers[0].step()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the autoencoder's gradients, which Lightning has unscaled by now; without an adversary it clips them itself."""
        if self.adversary is not None:
            self._clip(optimizer)

    def _step_discriminators(self) -> None:
        """Step them if they have gradients. Their optimizer is unwrapped, or Lightning would count its steps as global steps."""
        assert self.adversary is not None
        if all(p.grad is None for p in self.adversary.trained_parameters()):
            return
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        optimizer, scaler = optimizers[1].optimizer, grad_scaler(self)
        if scaler is None:
            self._clip(optimizer)
            optimizer.step()
        else:
            scaler.unscale_(optimizer)
            self._clip(optimizer)
            scaler.step(optimizer)
        optimizer.zero_grad()
        schedulers[1].step()

    def _clip(self, optimizer: torch.optim.Optimizer) -> None:
        if self.stepping.gradient_clip_val:
            self.clip_gradients(optimizer, self.stepping.gradient_clip_val, self.stepping.gradient_clip_algorithm)

    def num_steps(self) -> float:
        """Return the number of steps; Lightning does not know of the accumulation in a module with two optimizers."""
        steps, trainer = super().num_steps(), self.trainer  # the first call counts the batches of an epoch too
        assert trainer.max_epochs is not None
        if self.adversary is None or trainer.max_epochs == -1:
            return steps
        steps = math.ceil(trainer.num_training_batches / self.stepping.accumulate_grad_batches) * trainer.max_epochs
        return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)

    # Validation ------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        video = batch["video"]
        posterior = self.autoencoder.encode(video)
        if self.measures_scale and self.trainer.state.fn == "fit":
            self._measure_in_validation(posterior.mode(), batch_idx)
        reconstruction = self.autoencoder.decode(posterior.mode())
        out = self.loss(video, reconstruction, posterior, None)
        values = {"loss": out.loss, "psnr": psnr(video, reconstruction).mean(), "ssim": ssim(video, reconstruction).mean()}
        if "lpips" in out.parts:
            values["lpips"] = out.parts["lpips"]
        for name, value in values.items():
            self.log(f"val/{name}", value, prog_bar=name == "psnr", batch_size=len(video), sync_dist=True)

    # Latent scale ----------------------------------------------------------------------------------------------------

    def _measure_in_validation(self, z: Tensor, batch_idx: int) -> None:
        """Measure scale and shift on validation videos, for the model files before the end of training."""
        self._validated = (LatentMoments() if batch_idx == 0 else self._validated).add(z)
        if batch_idx + 1 == self.trainer.num_val_batches[0]:
            with contextlib.suppress(UserError):  # early latents may be constant; at the end of training that is an error
                self._set_scale(self._validated)

    def on_validation_epoch_end(self) -> None:
        """Forget the scale of the validation videos. The model file is written, and no checkpoint may depend on it."""
        if self.measures_scale and self.trainer.state.fn == "fit":
            self.codec.set_scale(1.0, 0.0)

    @torch.no_grad()
    def measure(self) -> None:
        """Measure scale and shift on the first training batches, with the averaged weights."""
        # A new loader starts at the first epoch, wherever training has ended.
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # a connector sets it
        batches = self.trainer.train_dataloader if data is None else data.train_dataloader()
        assert batches is not None
        moments = LatentMoments()
        for batch in itertools.islice(batches, self.measure_batches):
            moments = moments.add(self.autoencoder.encode(batch["video"].to(self.device)).mode())
        self._set_scale(moments)

    def _set_scale(self, moments: LatentMoments) -> None:
        """Set scale and shift from the moments of all processes."""
        sums = torch.tensor([moments.count, moments.total, moments.squares], dtype=torch.float64, device=self.device)
        count, total, squares = all_gather(self, sums).reshape(-1, 3).sum(0).tolist()
        self.codec.set_scale(*LatentMoments(int(count), total, squares).latent_scale())

    def on_train_end(self) -> None:
        if self.measures_scale:
            self.measure()

    def trained_parameters(self) -> Iterable[Parameter]:
        return itertools.chain(self.autoencoder.parameters(), self.loss.parameters())
