"""Training of a video autoencoder, and the one measurement of its latents that all later stages share.

LVDM section 3.1. Letters: x video, y reconstruction, z latent.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lvdm.models.codec import Codec, LatentMoments
from lvdm.models.features import psnr, ssim
from lvdm.rules import integer, require
from lvdm.training.adversary import Adversary, adaptive_weight
from lvdm.training.optimizers import Constant, OptimizerSettings, SteppedModule
from lvdm.training.reconstruction import ReconstructionLoss, ReconstructionParts
from lvdm.training.seeding import generator_for, sample_noise
from lvdm.types import Batch, UserError


@dataclass(frozen=True)
class Reconstruction:
    """One batch through the autoencoder."""

    video: Tensor
    made: Tensor
    kept: ReconstructionParts


@dataclass(frozen=True)
class Stepping:
    """Of two optimizers in turn, which Lightning leaves to the module: its own keys of `trainer`."""

    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str = "norm"
    accumulate_grad_batches: int = 1


class AutoencoderTraining(SteppedModule):
    """Trains the autoencoder inside a codec; at the end measures the scale and shift of its latents.

    Args:
        codec: the autoencoder with a scale and shift; ones given here (other than 1 and 0) are kept, else they are measured.
        loss: what the reconstruction should keep.
        adversary: discriminators that the reconstruction should pass; none where absent.
        optimizer, learning_rate: how the weights are stepped; the rate's course is that of the discriminators too.
        measure_batches: training batches over which scale and shift are measured.
        seed: the latent's noise is a function of (seed, step, sample).
    """

    def __init__(
        self,
        *,
        codec: Codec,
        loss: ReconstructionLoss | None = None,
        adversary: Adversary | None = None,
        optimizer: OptimizerSettings | None = None,
        learning_rate: Constant | None = None,
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
                f"the adaptive weight looks at the decoder's last layer, and {type(self.autoencoder).__name__} names none; "
                "give it a property last_layer, or set adversary.params.adaptive: false"
            )

    @property
    def autoencoder(self) -> nn.Module:
        return self.codec.autoencoder

    def train(self, mode: bool = True) -> AutoencoderTraining:
        """A codec is frozen and stays in eval mode; here its autoencoder is what is trained."""
        super().train(mode)
        self.autoencoder.train(mode)
        return self

    def setup(self, stage: str) -> None:
        self.loss.load_features()

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        judges = [] if self.adversary is None else [self.adversary.optimizer.build(self.adversary.trained_parameters())]
        return [*super().build_optimizers(), *judges]

    # One batch -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.adversary is None:
            return self.reconstruct(batch, batch_idx).kept.loss
        for loss in self.losses_in_turn(batch, batch_idx):
            self.manual_backward(loss / self.stepping.accumulate_grad_batches)
        if (batch_idx + 1) % self.stepping.accumulate_grad_batches == 0 or self.trainer.is_last_batch:
            self._step_all()
        return None

    def reconstruct(self, batch: Batch, batch_idx: int) -> Reconstruction:
        video = batch["video"]
        posterior = self.autoencoder.encode(video)
        generator = generator_for(self.seed, self.global_step, batch_idx)
        made = self.autoencoder.decode(posterior.at(sample_noise(posterior.mean.shape, generator, self.share, video.device)))
        out = Reconstruction(video, made, self.loss(video, made, posterior, generator))
        self.log("train/loss", out.kept.loss, prog_bar=True, batch_size=len(video))
        self.log_dict({f"train/{name}": part for name, part in out.kept.parts.items()}, batch_size=len(video))
        return out

    def losses_in_turn(self, batch: Batch, batch_idx: int) -> Iterator[Tensor]:
        """The autoencoder's loss, then the discriminators'; each is to be followed by its backward pass before the next."""
        assert self.adversary is not None
        out = self.reconstruct(batch, batch_idx)
        if self.global_step < self.adversary.start_step:
            yield out.kept.loss
            return
        self.adversary.requires_grad_(False)
        fooling = self.adversary.fooling(out.made)
        weight = self._adaptive_weight(out.kept.loss, fooling) if self.adversary.adaptive else torch.ones_like(fooling)
        yield out.kept.loss + self.adversary.weight * weight * fooling
        self.adversary.requires_grad_(True)
        judging = self.adversary.judging(out.video, out.made.detach())
        yield judging
        parts = {"fooling": fooling, "adaptive_weight": weight, "judging": judging}
        self.log_dict({f"train/{name}": part for name, part in parts.items()}, batch_size=len(out.video))

    def _adaptive_weight(self, kept: Tensor, fooling: Tensor) -> Tensor:
        """Of the gradients of all processes together, so that each of them has the same."""
        last = self.autoencoder.last_layer
        gradients = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (kept, fooling)]
        if self.share.processes > 1:
            gradients = [self.trainer.strategy.reduce(gradient, reduce_op="mean") for gradient in gradients]
        return adaptive_weight(*gradients)

    def _step_all(self) -> None:
        """Lightning counts the autoencoder's steps alone: with the discriminators' one step would be two."""
        optimizers = self.optimizers()
        autoencoder, judges = optimizers[0], optimizers[1].optimizer
        has_judged = any(p.grad is not None for p in self.adversary.trained_parameters())
        for number, optimizer in enumerate([autoencoder, judges] if has_judged else [autoencoder]):
            if self.stepping.gradient_clip_val:
                self.clip_gradients(optimizer, self.stepping.gradient_clip_val, self.stepping.gradient_clip_algorithm)
            optimizer.step()
            optimizer.zero_grad()
            self.lr_schedulers()[number].step()

    def _progress_by_steps(self) -> float:
        """Lightning knows nothing of the accumulation where the module steps itself."""
        progress, trainer = super()._progress_by_steps(), self.trainer  # by which the batches of an epoch are counted
        if self.adversary is None or trainer.max_epochs == -1:
            return progress
        steps = math.ceil(trainer.num_training_batches / self.stepping.accumulate_grad_batches) * trainer.max_epochs
        return self.global_step / (steps if trainer.max_steps == -1 else min(steps, trainer.max_steps))

    # Validation ------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        video = batch["video"]
        posterior = self.autoencoder.encode(video)
        if self.measures_scale and self.trainer.state.fn == "fit":
            self._scale_for_now(posterior.mode(), batch_idx)
        made = self.autoencoder.decode(posterior.mode())
        out = self.loss(video, made, posterior)
        figures = {"loss": out.loss, "psnr": psnr(video, made).mean(), "ssim": ssim(video, made).mean()}
        if "lpips" in out.parts:
            figures["lpips"] = out.parts["lpips"]
        for name, value in figures.items():
            self.log(f"val/{name}", value, prog_bar=name == "psnr", batch_size=len(video), sync_dist=True)

    # Latent scale ----------------------------------------------------------------------------------------------------

    def _scale_for_now(self, z: Tensor, batch_idx: int) -> None:
        """Before the end of training a model file has the scale and shift of the validation videos."""
        self._validated = (LatentMoments() if batch_idx == 0 else self._validated).add(z)
        if batch_idx + 1 == self.trainer.num_val_batches[0]:
            with contextlib.suppress(UserError):  # a young autoencoder may tell no videos apart: that is said at the end
                self._set_scale(self._validated)

    @torch.no_grad()
    def measure(self) -> None:
        """Scale and shift over the first training batches; the weights are the averaged ones by now."""
        data = self.trainer.datamodule  # a loader of its own begins at the first epoch, wherever training has ended
        batches = self.trainer.train_dataloader if data is None else data.train_dataloader()
        moments = LatentMoments()
        for batch in itertools.islice(batches, self.measure_batches):
            moments = moments.add(self.autoencoder.encode(batch["video"].to(self.device)).mode())
        self._set_scale(moments)

    def _set_scale(self, moments: LatentMoments) -> None:
        """From the moments of all processes: the same in each."""
        sums = torch.tensor([moments.count, moments.total, moments.squares], dtype=torch.float64, device=self.device)
        count, total, squares = self.all_gather(sums).reshape(-1, 3).sum(0).tolist()
        self.codec.set_scale(*LatentMoments(int(count), total, squares).latent_scale())

    def on_train_end(self) -> None:
        if self.measures_scale:
            self.measure()

    def trained_parameters(self) -> Iterable[Parameter]:
        return itertools.chain(self.autoencoder.parameters(), self.loss.parameters())
