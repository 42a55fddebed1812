"""Training of a video autoencoder, and the one measurement of its latents that all later stages share.

LVDM section 3.1. Letters: x video, y reconstruction, z latent.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lvdm.models.codec import Codec, Moments
from lvdm.training.optimizers import Constant, OptimizerSettings, SteppedModule
from lvdm.training.reconstruction import ReconstructionLoss
from lvdm.training.tasks import generator_for
from lvdm.types import Batch, UserError


class AutoencoderTraining(SteppedModule):
    """Trains the autoencoder inside a codec; at the end measures the scale and shift of its latents.

    Args:
        codec: the autoencoder with a scale and shift; ones given here (other than 1 and 0) are kept, else they are measured.
        loss: what the reconstruction should keep.
        optimizer, learning_rate: how the weights are stepped.
        measure_batches: training batches over which scale and shift are measured.
        seed: the latent's noise is a function of (seed, step, rank).
    """

    def __init__(
        self,
        *,
        codec: Codec,
        loss: ReconstructionLoss | None = None,
        optimizer: OptimizerSettings | None = None,
        learning_rate: Constant | None = None,
        measure_batches: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer, learning_rate)
        self.codec = codec
        self.measures_scale = (codec.scale, codec.shift) == (1.0, 0.0) and measure_batches > 0
        self._validated = Moments()
        self.autoencoder.requires_grad_(True).train()
        self.loss = loss or ReconstructionLoss()
        self.measure_batches, self.seed = measure_batches, seed

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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        video = batch["video"]
        posterior = self.autoencoder.encode(video)
        latent = posterior.sample(generator_for(self.seed, self.global_step, batch_idx, self.global_rank, device=video.device))
        out = self.loss(video, self.autoencoder.decode(latent), posterior)
        self.log("train/loss", out.loss, prog_bar=True, batch_size=len(video))
        self.log_dict({f"train/{name}": part for name, part in out.parts.items()}, batch_size=len(video))
        return out.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        video = batch["video"]
        posterior = self.autoencoder.encode(video)
        if self.measures_scale and self.trainer.state.fn == "fit":
            self._scale_for_now(posterior.mode(), is_first=batch_idx == 0)
        reconstruction = self.autoencoder.decode(posterior.mode())
        loss = self.loss(video, reconstruction, posterior).loss
        self.log("val/loss", loss, batch_size=len(video), sync_dist=True)
        self.log("val/psnr", psnr(video, reconstruction).mean(), prog_bar=True, batch_size=len(video), sync_dist=True)

    def _scale_for_now(self, z: Tensor, *, is_first: bool) -> None:
        """Before the end of training a model file has the scale and shift of this process's validation videos."""
        self._validated = (Moments() if is_first else self._validated).add(z)
        with contextlib.suppress(UserError):  # a young autoencoder may tell no videos apart: that is said at the end
            self.codec.set_scale(*self._validated.latent_scale())

    @torch.no_grad()
    def measure(self) -> None:
        """Scale and shift over the first training batches, the same on every rank; the weights are the averaged ones by now."""
        data = self.trainer.datamodule  # a loader of its own begins at the first epoch, wherever training has ended
        batches = self.trainer.train_dataloader if data is None else data.train_dataloader()
        moments = Moments()
        for batch in itertools.islice(batches, self.measure_batches):
            moments = moments.add(self.autoencoder.encode(batch["video"].to(self.device)).mode())
        sums = torch.tensor([moments.count, moments.total, moments.squares], dtype=torch.float64, device=self.device)
        count, total, squares = self.all_gather(sums).reshape(-1, 3).sum(0).tolist()
        self.codec.set_scale(*Moments(int(count), total, squares).latent_scale())

    def on_train_end(self) -> None:
        if self.measures_scale:
            self.measure()

    def trained_parameters(self) -> Iterable[Parameter]:
        return self.autoencoder.parameters()


def psnr(video: Tensor, reconstruction: Tensor) -> Tensor:
    """Peak signal to noise in dB of values in [-1, 1], per video: (b,)."""
    error = (video.float() - reconstruction.float().clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))
