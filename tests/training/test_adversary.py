"""Adversarial training of an autoencoder: the published discriminator, the losses in closed form, two optimizers in turn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from test_training_loop import QUIET
from tiny_training import CODEC, data_of, video_set, write_videos
from torch import Tensor, nn
from torch.nn import Parameter

from lvdm.config import instantiate
from lvdm.data import VideoData
from lvdm.models.autoencoders import ClipDiscriminator, FrameDiscriminator
from lvdm.training import AdamW, Adversary, AutoencoderTraining, Cosine, ReconstructionLoss
from lvdm.training import autoencoder as stage
from lvdm.training.adversary import adaptive_weight, hinge_discriminator_loss, hinge_generator_loss
from lvdm.training.autoencoder import Stepping
from lvdm.types import UserError


class Descent:
    """Plain gradient descent: a step is the gradient."""

    lr = 1.0

    def build(self, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.lr)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("adversary") / "videos")


def data(videos: Path, **params: object) -> VideoData:
    return instantiate(data_of(video_set(videos, clips_per_video=2), None, **params))


def training(**options: object) -> AutoencoderTraining:
    torch.manual_seed(0)
    stepping = options.pop("stepping", Stepping())
    made = AutoencoderTraining(codec=instantiate(CODEC), **{"optimizer": AdamW(1e-3), "measure_batches": 0, **options})
    made.stepping = stepping
    return made


def adversary(**options: object) -> Adversary:
    torch.manual_seed(1)
    discriminators = options.pop("discriminators", [FrameDiscriminator(channels=4, layers=1, norm="group")])
    return Adversary(discriminators, **{"start_step": 0, "optimizer": AdamW(1e-3), **options})


def fit(module: AutoencoderTraining, batches: VideoData, **trainer: object) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, "max_steps": 3, **trainer})
    trainer.fit(module, datamodule=batches)
    return trainer


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


# The discriminators ----------------------------------------------------------------------------------------------------------


def test_the_frame_discriminator_is_the_published_one() -> None:
    """2,765,633 weights and patches of 70 x 70: pix2pix's discriminator for three channels."""
    discriminator = FrameDiscriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_633
    assert discriminator(torch.zeros(1, 3, 2, 256, 256)).shape == (2, 1, 30, 30)
    field = FrameDiscriminator(channels=2, norm="none")
    video = torch.zeros(1, 3, 1, 128, 128, requires_grad=True)
    field(video)[0, 0, 7, 7].backward()
    rows = video.grad[0, :, 0].abs().sum((0, 2)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_a_clip_discriminator_sees_motion_and_a_frame_discriminator_does_not() -> None:
    video = torch.randn(1, 3, 8, 32, 32)
    order = torch.randperm(8)
    by_frame = FrameDiscriminator(channels=4, layers=2, norm="group")
    torch.testing.assert_close(by_frame(video[:, :, order]), by_frame(video)[order])
    by_clip = ClipDiscriminator(channels=4, layers=2, norm="group")
    assert by_clip(video).shape == (1, 1, 2, 6, 6)
    assert not torch.allclose(by_clip(video[:, :, order]), by_clip(video), atol=1e-4)


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"layers": 0}, {"channels": 0}, {"channels": 33, "norm": "group"}])
def test_a_discriminator_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))} is .*, expected"):
        FrameDiscriminator(**options)


# The losses ---------------------------------------------------------------------------------------------------------------


def test_hinge_losses_in_numbers() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3))
    assert float(hinge_generator_loss(fake)) == pytest.approx(2 / 3)


def test_the_adaptive_weight_makes_both_gradients_as_large_and_stays_finite() -> None:
    reconstruction, generator = torch.full((4,), 3.0), torch.full((4,), 0.5)
    assert float(adaptive_weight(reconstruction, generator)) == pytest.approx(6 / (1 + 1e-4))
    assert float(adaptive_weight(reconstruction, torch.zeros(4))) == 1e4, "bounded"
    for strange in (torch.nan, torch.inf):
        for pair in ((reconstruction, torch.full((4,), strange)), (torch.full((4,), strange), generator)):
            assert math.isfinite(float(adaptive_weight(*pair)))


def test_the_adaptive_weight_makes_the_adversarial_gradient_as_large_as_the_reconstructions(videos: Path) -> None:
    """With weight 1, at the decoder's last layer, the generator loss has the gradient norm of the reconstruction loss."""
    module = training(adversary=adversary(weight=1.0))
    batch = next(iter(data_batches(videos)))
    out = module.reconstruct(batch, 0)
    last = module.autoencoder.last_layer
    alone = torch.autograd.grad(out.terms.loss, last, retain_graph=True)[0]
    both = torch.autograd.grad(next(module.alternating_losses(batch, 0)), last)[0]
    assert float((both - alone).norm()) == pytest.approx(float(alone.norm()), rel=0.02)


def data_batches(videos: Path) -> Iterable[dict[str, Tensor]]:
    batches = data(videos)
    batches.setup("fit")
    return batches.train_dataloader()


# Both optimizers -------------------------------------------------------------------------------------------------------------


def test_an_adversary_before_its_start_changes_nothing_and_is_not_called(videos: Path) -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, video: Tensor) -> Tensor:
            raise AssertionError("called before start_step")

    plain = training()
    fit(plain, data(videos))
    module = training(adversary=adversary(discriminators=[Silent()], start_step=10))
    trainer = fit(module, data(videos))
    assert torch.equal(weights(module.autoencoder), weights(plain.autoencoder))
    assert trainer.global_step == 3


def test_a_step_of_discriminators_and_autoencoder_is_one_global_step(videos: Path) -> None:
    module = training(adversary=adversary(start_step=2))
    before = weights(module.adversary)
    trainer = fit(module, data(videos), max_steps=2)
    assert trainer.global_step == 2 and torch.equal(weights(module.adversary), before), "steps 0 and 1 have no adversary"
    module = training(adversary=adversary(start_step=2))
    trainer = fit(module, data(videos), max_steps=4)
    assert trainer.global_step == 4 and not torch.equal(weights(module.adversary), before)
    logged = trainer.callback_metrics
    assert {"train/discriminator_loss", "train/generator_loss", "train/adaptive_weight", "train/loss"} <= logged.keys()
    assert all(torch.isfinite(value) for value in logged.values())


def test_the_discriminators_learn(videos: Path) -> None:
    discriminator = adversary(optimizer=AdamW(1e-2), weight=1e-6)
    module = training(adversary=discriminator, optimizer=AdamW(0.0))
    trainer = fit(module, data(videos, batch_size=4), max_steps=40)
    assert float(trainer.callback_metrics["train/discriminator_loss"]) < 0.2, (
        "1 is chance; 0 is real logits above 1 and fake ones below -1"
    )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_accumulated_batches_make_the_step_of_one_batch_of_all(
    videos: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(stage, "sample_noise", lambda shape, generator, share, device: torch.zeros(shape))
    ended = []
    for batch_size, batches in ((4, 1), (2, 2)):
        discriminator = adversary(adaptive=False, optimizer=Descent())
        module = training(adversary=discriminator, optimizer=Descent(), stepping=Stepping(accumulate_grad_batches=batches))
        fit(module, data(videos, batch_size=batch_size), max_steps=1, precision=precision)
        ended.append(weights(module))
    assert not torch.equal(ended[0], weights(training(adversary=adversary())))
    torch.testing.assert_close(*ended, rtol=1e-4, atol=1e-5 if precision == "32-true" else 2e-2)


def test_each_network_is_clipped_by_itself(videos: Path) -> None:
    module = training(adversary=adversary(optimizer=Descent()), optimizer=Descent(), stepping=Stepping(gradient_clip_val=1e-3))
    before = [weights(part) for part in (module.autoencoder, module.adversary)]
    fit(module, data(videos), max_steps=1)
    for part, old in zip((module.autoencoder, module.adversary), before, strict=True):
        assert float((weights(part) - old).norm()) == pytest.approx(1e-3, rel=1e-2), "a step of plain descent is the gradient"


def test_a_falling_rate_ends_with_the_last_epoch_where_batches_are_accumulated(videos: Path) -> None:
    """Four batches of two, accumulated by two, in three epochs: six steps; Lightning itself would count on twelve."""
    seen = []
    module = training(adversary=adversary(), learning_rate=Cosine(), stepping=Stepping(accumulate_grad_batches=2))
    look = module.alternating_losses
    module.alternating_losses = lambda *batch: (seen.append(module.progress()), look(*batch))[1]
    trainer = fit(module, data(videos, batch_size=2), max_steps=-1, max_epochs=3)
    assert trainer.global_step == 6 and seen[::2] == pytest.approx([step / 6 for step in range(6)])


def test_without_a_last_layer_the_weight_cannot_be_adaptive() -> None:
    class Other(nn.Linear):
        latent_channels = 2

    codec = instantiate(CODEC)
    codec.autoencoder = Other(2, 2)
    with pytest.raises(UserError, match="Other has no last_layer; add that property"):
        AutoencoderTraining(codec=codec, adversary=adversary())


def test_a_learned_scale_divides_what_is_kept_and_pays_for_it() -> None:
    """With s = log of the mean error, the loss is lowest: 1 + s."""
    loss = ReconstructionLoss(l1=1.0, learned_scale=True)
    video, made = torch.zeros(1, 3, 2, 8, 8), torch.full((1, 3, 2, 8, 8), 0.25)
    with torch.no_grad():
        loss.scale.fill_(math.log(0.25))
    out = loss(video, made, None)
    assert out.loss.item() == pytest.approx(1 + math.log(0.25))
    out.loss.backward()
    assert abs(float(loss.scale.grad)) < 1e-6
