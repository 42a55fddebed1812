"""One adversarial step of the published autoencoder training, against recorded values; its loss and modes, against numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from test_adversary import Descent
from test_parity_sampling import relative_error
from test_training_loop import QUIET, weights
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lvdm.jobs.checks import check_strategy
from lvdm.models.autoencoders import VAE3D, FrameDiscriminator, PatchVAE3D, Posterior
from lvdm.models.codec import Codec
from lvdm.training import AdamW, Adversary, AutoencoderTraining, ReconstructionLoss
from lvdm.training import autoencoder as stage
from lvdm.training.autoencoder import Stepping
from lvdm.types import UserError

PUBLISHED_ADAM = AdamW(3.6e-5, betas=(0.5, 0.9))
FACTORS = {"young": 0.1, "strong": 3000.0}  # on the discriminator's last convolution; with the first the clamp acts
Known = dict[str, Tensor]


class Videos(torch.utils.data.Dataset):
    def __init__(self, videos: Tensor) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"video": self.videos[index], "index": index}


def module_of(known: Known, autoencoder: Known, case: str, *, second_pass: bool = True) -> AutoencoderTraining:
    """Return the published training at the recorded first weights."""
    model = VAE3D(channels=16, downsample=(2, 4, 4))
    model.load_state_dict({name: autoencoder[f"weights/{name}"] for name in model.state_dict()})
    discriminator = FrameDiscriminator(channels=16)
    discriminator.load_state_dict({name: known[f"discriminator/{name}"] for name in discriminator.state_dict()})
    with torch.no_grad():
        for weight in discriminator.main[-1].parameters():
            weight.mul_(FACTORS[case])
    adversary = Adversary([discriminator], weight=0.5, start_step=0, second_pass=second_pass, optimizer=PUBLISHED_ADAM)
    loss = ReconstructionLoss(l1=1.0, reduction="frame")
    return AutoencoderTraining(codec=Codec(model), loss=loss, adversary=adversary, optimizer=PUBLISHED_ADAM, measure_batches=0)


def fit(module: AutoencoderTraining, videos: Tensor, **trainer: Any) -> pl.Trainer:
    batches = torch.utils.data.DataLoader(Videos(videos), batch_size=2)
    trainer = pl.Trainer(**{**QUIET, "max_steps": 1, **trainer})
    trainer.fit(module, train_dataloaders=batches)
    return trainer


@pytest.mark.parametrize("case", FACTORS)
def test_a_step_is_the_published_one(case: str, parity: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, adaptive weight, the gradient at the last layer, and the weights after both optimizers' steps."""
    known = load_file(parity("lvdm_autoencoder_training.safetensors"))
    module = module_of(known, load_file(parity("lvdm_autoencoder.safetensors")), case)
    noises = iter([known[f"{case}/noise_autoencoder"], known[f"{case}/noise_discriminator"]])
    monkeypatch.setattr(stage, "sample_noise", lambda *_: next(noises))
    losses, gradients = [], []
    backward = module.manual_backward
    monkeypatch.setattr(module, "manual_backward", lambda loss: (losses.append(loss.detach()), backward(loss))[1])
    module.autoencoder.last_layer.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.clone()))
    logged = fit(module, known["video"]).callback_metrics

    ours = {
        "reconstruction_per_frame": logged["train/loss"],
        "generator_loss": logged["train/generator_loss"],
        "adaptive_weight_times_half": 0.5 * logged["train/adaptive_weight"],
        "loss_autoencoder": losses[0],
        "loss_discriminator": losses[1],
        "gradient_last_layer": gradients[0],
        "after/decoder.conv_out.weight": module.autoencoder.last_layer,
    }
    errors = {name: relative_error(value, known[f"{case}/{name}"]) for name, value in ours.items()}
    for name, weight in module.adversary.discriminators[0].state_dict().items():
        errors[name] = relative_error(weight.float(), known[f"{case}/after/discriminator/{name}"].float())
    assert max(errors.values()) < 1e-5, {name: error for name, error in errors.items() if error >= 1e-5}


def test_the_frame_reduction_is_the_mean_loss_times_the_elements_of_a_frame() -> None:
    """A frame of 3 x 4 x 5 elements; the KL is of the whole clip, whose latent has 6 elements."""
    posterior = Posterior(torch.ones(2, 1, 3, 1, 2), torch.zeros(2, 1, 3, 1, 2))  # KL: .5 nats an element
    video, made = torch.zeros(2, 3, 6, 4, 5), torch.full((2, 3, 6, 4, 5), 0.25)
    terms = ReconstructionLoss(l1=1.0, l2=2.0, kl=0.1, reduction="frame")(video, made, posterior)
    assert terms.loss.item() == pytest.approx(60 * (0.25 + 2 * 0.0625) + 0.1 * 6 * 0.5)
    assert {name: part.item() for name, part in terms.parts.items()} == pytest.approx({"l1": 0.25, "l2": 0.0625, "kl": 0.5})
    with pytest.raises(UserError, match="reduction is 'sum', expected one of mean, frame"):
        ReconstructionLoss(reduction="sum")


class Recorded:
    """What the discriminators saw: reconstructions, by the autoencoder before or after its step."""

    def __init__(self, module: AutoencoderTraining, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[Tensor] = []
        look = module.adversary.discriminator_loss
        monkeypatch.setattr(
            module.adversary, "discriminator_loss", lambda video, made: (self.shown.append(made.clone()), look(video, made))[1]
        )


@pytest.mark.parametrize("second_pass", [False, True])
def test_discriminators_see_the_first_reconstruction_or_a_second_one_of_the_stepped_autoencoder(
    second_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "sample_noise", lambda shape, *_: torch.zeros(shape))
    module = tiny(second_pass=second_pass)
    seen, videos = Recorded(module, monkeypatch), torch.randn(2, 3, 4, 16, 16).clamp(-1, 1)
    before = module.autoencoder.decode(module.autoencoder.encode(videos).mode()).detach()
    fit(module, videos)
    with torch.no_grad():
        after = module.autoencoder.decode(module.autoencoder.encode(videos).mode())
    torch.testing.assert_close(seen.shown[0], after if second_pass else before)
    assert not torch.allclose(before, after, atol=1e-3)


def tiny(*, stepping: Stepping | None = None, optimizer: Any = None, **options: Any) -> AutoencoderTraining:
    torch.manual_seed(0)
    optimizer = optimizer or AdamW(1e-2)
    autoencoder = PatchVAE3D(channels=[8, 8], blocks=1, latent_channels=2)
    discriminator = FrameDiscriminator(channels=4, layers=1, norm="group")
    adversary = Adversary([discriminator], start_step=0, optimizer=optimizer, **options)
    made = AutoencoderTraining(codec=Codec(autoencoder), adversary=adversary, optimizer=optimizer, measure_batches=0)
    made.stepping = stepping or Stepping()
    return made


# 16-mixed ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip", "batches"), [(None, 2), (1e-3, 1)])
def test_scaled_losses_change_no_step(clip: float | None, batches: int) -> None:
    """With float16 and losses times 4,096, a step of plain descent is the gradient that float32 has, clipped or not."""
    videos, moved = torch.randn(2 * batches, 3, 4, 16, 16).clamp(-1, 1), []
    for scale in (None, 2.0**12):
        module = tiny(stepping=Stepping(clip, accumulate_grad_batches=batches), optimizer=Descent())
        parts = (module.autoencoder, module.adversary)
        before = [weights(part) for part in parts]
        fit(module, videos, **scaled_by(scale))
        moved.append([weights(part) - old for part, old in zip(parts, before, strict=True)])
    for plain, scaled in zip(*moved, strict=True):
        assert relative_error(scaled, plain) < 0.02, "float16 rounds"
        assert clip is None or float(scaled.norm()) == pytest.approx(clip, rel=1e-2)


def scaled_by(scale: float | None) -> dict[str, Any]:
    return {} if scale is None else {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", scale))]}


def test_the_adaptive_weight_survives_gradients_that_float16_rounds_to_zero() -> None:
    """The generator loss's gradient at the last layer is below 6e-8, the smallest float16, unless it is scaled."""
    videos, weight = torch.randn(2, 3, 4, 16, 16).clamp(-1, 1), {}
    for scale in (None, 2.0**12):
        module = tiny(optimizer=Descent())
        with torch.no_grad():
            for parameter in module.adversary.discriminators[0].main[-1].parameters():
                parameter.mul_(1e-5)
        weight[scale] = float(fit(module, videos, **scaled_by(scale)).callback_metrics["train/adaptive_weight"])
    assert weight[2.0**12] == pytest.approx(weight[None], rel=0.02)


def test_scaled_losses_and_a_second_pass_are_refused_together() -> None:
    with pytest.raises(UserError, match="16-mixed cannot scale .* second_pass"):
        check_strategy({"precision": "16-mixed"}, tiny(second_pass=True))
    check_strategy({"precision": "16-mixed"}, tiny())
