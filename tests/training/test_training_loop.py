"""Training as Lightning runs it: averages, clipping, bfloat16, the time cap, losses that are not finite, measured latents."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from tiny_training import AUTOENCODER, CODEC, UNET, data_of, video_set, write_videos
from torch import Tensor, nn

from lvdm.config import instantiate
from lvdm.models.codec import Codec
from lvdm.models.denoisers import UNet3D
from lvdm.training import AdamW, AutoencoderTraining, ExponentialAverage, LatentDiffusion, ReconstructionLoss, reconstruction
from lvdm.training import Cosine as CosineRate
from lvdm.training.averaging import warmed_up_decay
from lvdm.training.callbacks import StopAtNonFiniteLoss, TimeCap, WriteModelFile
from lvdm.training.optimizers import SteppedModule
from lvdm.types import UserError

QUIET = {
    **{"max_epochs": -1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"},
    **{"enable_checkpointing": False, "num_sanity_val_steps": 0},
}


class Samples(torch.utils.data.Dataset):
    """Fixed latents; those named in `bad` are not numbers."""

    def __init__(self, count: int = 8, bad: tuple[int, ...] = ()) -> None:
        self.latents = torch.randn(count, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        self.latents[list(bad)] = torch.nan

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict:
        return {"latent": self.latents[index], "index": index, "fps": 8.0}


def loader(bad: tuple[int, ...] = ()) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(Samples(bad=bad), batch_size=2)


def short(**options) -> LatentDiffusion:
    torch.manual_seed(0)
    nodes = {"schedule": "lvdm.diffusion.schedules.Cosine", "objective": "lvdm.diffusion.objectives.VObjective"}
    made = {name: instantiate({"target": target}) for name, target in nodes.items()}
    options = {"optimizer": AdamW(lr=0.01), **options}
    return LatentDiffusion(denoiser=UNet3D(**UNET), codec=instantiate(CODEC), num_latents=3, **made, **options)


def fit(module: pl.LightningModule, *callbacks: pl.Callback, bad=(), data=None, **trainer) -> pl.Trainer:
    trainer = pl.Trainer(**{**QUIET, "max_steps": 4, **trainer}, callbacks=list(callbacks))
    batches = {"datamodule": data} if data else {"train_dataloaders": loader(bad), "val_dataloaders": loader()}
    trainer.fit(module, **batches)
    return trainer


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


class Watch(pl.Callback):
    """Remembers the denoiser's weights: after each step as trained, and as validation finds them."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.validated: list[tuple[int, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append(weights(pl_module.denoiser))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append((trainer.global_step, weights(pl_module.denoiser)))


# Averages --------------------------------------------------------------------------------------------------------------------


def test_averages_are_those_of_the_formula_and_validation_uses_them_alone():
    plain, watch, written = Watch(), Watch(), []
    steps = {"max_steps": 6, "val_check_interval": 3, "check_val_every_n_epoch": None}
    fit(short(), plain, **steps)
    model = short()
    write = WriteModelFile(lambda module, step: written.append((step, weights(module.denoiser))), written=lambda: -1)
    fit(model, watch, write, ExponentialAverage(0.3), **steps)
    assert all(torch.equal(a, b) for a, b in zip(plain.trained, watch.trained, strict=True)), "training never sees them"

    average, after = watch.trained[0], {1: watch.trained[0]}
    for n, trained in enumerate(watch.trained[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * trained
        after[n + 1] = average
    for step, used in [*watch.validated, *written]:
        torch.testing.assert_close(used, after[step], atol=1e-6, rtol=1e-5)
    assert [step for step, _ in written] == [3, 6] and {step for step, _ in watch.validated} == {3, 6}
    assert torch.equal(weights(model.denoiser), written[-1][1]), "and so does what is left in memory"


def test_the_decay_warms_up_and_must_be_one():
    assert [warmed_up_decay(0.5, n) for n in (0, 2, 7, 8, 1000)] == [0.1, 0.25, 8 / 17, 0.5, 0.5]
    for decay in (0.0, 1.0, 2.0):
        with pytest.raises(UserError, match="expected a number between 0 and 1"):
            ExponentialAverage(decay)


# Trainer settings --------------------------------------------------------------------------------------------------------------


def test_accumulated_batches_make_the_step_of_one_batch_of_all(monkeypatch):
    """The mean of two halves' gradients: the draws are fixed so that halves and whole see the same."""
    samples = [Samples()[index] for index in range(4)]
    whole, halves = (torch.utils.data.DataLoader(samples, batch_size=size) for size in (4, 2))
    made = []
    for batches, accumulate in ((whole, 1), (halves, 2)):
        module = short()
        monkeypatch.setattr(
            module,
            "draw",
            lambda batch, tasks, rng, share, draw=module.draw: place_draw(
                draw, batch, dict.fromkeys(batch["index"].tolist(), tasks[0])
            ),
        )
        trainer = pl.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=accumulate)
        trainer.fit(module, batches)
        assert trainer.global_step == 1
        made.append(weights(module.denoiser))
    torch.testing.assert_close(*made, atol=2e-5, rtol=0)


def place_draw(draw, batch, tasks):
    """A draw of each sample by itself, as a function of its index, which has its task in `tasks`."""
    parts = []
    for row, index in enumerate(batch["index"].tolist()):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        parts.append(draw(one, [tasks[index]], torch.Generator().manual_seed(index)))
    conds = {f.name: [getattr(part.cond, f.name) for part in parts] for f in fields(parts[0].cond)}
    cond = {name: None if values[0] is None else torch.cat(values) for name, values in conds.items()}
    whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("x0", "eps", "t")}
    return replace(parts[0], **whole, cond=replace(parts[0].cond, **cond))


def test_gradients_are_clipped_to_the_norm_asked_for():
    class Norms(pl.Callback):
        seen: list[float] = []

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            trainer.strategy.precision_plugin.clip_gradients(optimizer, trainer.gradient_clip_val)
            norms = [p.grad.norm() for p in pl_module.denoiser.parameters() if p.grad is not None]
            self.seen.append(float(torch.stack(norms).norm()))

    fit(short(), norms := Norms(), gradient_clip_val=0.05)
    assert norms.seen and max(norms.seen) <= 0.0501


def test_bfloat16_trains_to_nearly_the_same_in_float32_weights():
    start, exact, rough = short(), short(), short()
    fit(exact)
    fit(rough, precision="bf16-mixed")
    moved = (weights(exact.denoiser) - weights(start.denoiser)).norm()
    assert weights(rough.denoiser).dtype == torch.float32
    assert 0 < (weights(exact.denoiser) - weights(rough.denoiser)).norm() < 0.5 * moved


# Ends --------------------------------------------------------------------------------------------------------------------------


def test_the_time_cap_ends_training_and_the_falling_rate_with_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lvdm.training.callbacks.time.monotonic", lambda: clock[0])

    class Slow(Watch):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            clock[0] += 10.0

    slow, cap = Slow(), TimeCap(1.0)
    trainer = fit(short(learning_rate=CosineRate(final=0.2)), slow, cap, max_steps=1000, val_check_interval=1.0)
    assert trainer.global_step == 6
    expected = [0.01 * (0.2 + 0.8 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * n / 6)))) for n in range(1, 6)]
    assert slow.rates[:5] == pytest.approx([float(rate) for rate in expected], rel=1e-5)
    assert slow.rates[-1] == pytest.approx(0.002, rel=1e-5)
    assert slow.validated[-1][0] == 6, "the last weights are validated"
    resumed = TimeCap(1.0)
    resumed.load_state_dict({**cap.state_dict(), "spent": 45.0})
    assert resumed.progress == pytest.approx(0.75)
    with pytest.raises(UserError, match="max_minutes is 0"):
        TimeCap(0)


def test_processes_with_clocks_of_their_own_fall_and_end_alike(monkeypatch):
    """Rates that differed by the clocks would part the weights of the processes, which only their gradients hold together."""
    told = []
    strategy = SimpleNamespace(broadcast=lambda mine: told.append(mine) or told[0])  # what the first process says
    for seconds in (61.0, 7.0):
        cap, trainer = TimeCap(1.0), SimpleNamespace(strategy=strategy, should_stop=False, global_step=1)
        monkeypatch.setattr("lvdm.training.callbacks.time.monotonic", lambda now=cap.start + seconds: now)
        module = SteppedModule(None, None)
        cap.on_before_optimizer_step(trainer, module, None)
        assert module.time_progress == pytest.approx(61 / 60, rel=1e-6)
        cap.on_train_batch_end(trainer, None, None, {}, 0)
        assert trainer.should_stop
        monkeypatch.undo()


def test_a_falling_rate_knows_the_end_by_epochs_too():
    watch = Watch()
    fit(short(learning_rate=CosineRate()), watch, max_steps=-1, max_epochs=2)
    assert len(watch.rates) == 8 and watch.rates[3] == pytest.approx(0.005) and watch.rates[-1] == pytest.approx(0, abs=1e-8)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(tmp_path):
    watch = Watch()
    with pytest.raises(UserError, match=r"the loss is nan at step 2 on samples 4, 5; .*non-finite.ckpt"):
        fit(short(), StopAtNonFiniteLoss(tmp_path), watch, bad=(5,))
    saved = torch.load(tmp_path / "non-finite.ckpt", weights_only=True)
    after = short()
    after.load_state_dict(saved["state_dict"])
    assert saved["global_step"] == 2 and torch.equal(weights(after.denoiser), watch.trained[1])


def test_on_an_accelerator_the_bad_batch_is_still_named_and_never_saved_over(tmp_path, monkeypatch):
    model = short()
    stop = StopAtNonFiniteLoss(tmp_path, every=3)
    monkeypatch.setattr(stop, "is_cheap_to_check", lambda loss: False)
    with pytest.raises(UserError, match="at step 1 on samples 2, 3;"):
        fit(model, stop, bad=(3,))

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    stop.every = 100
    with pytest.raises(UserError, match="at step 0 on samples 0, 1;"):
        fit(short(), stop, Save(), bad=(0,))
    assert not (tmp_path / "last.ckpt").exists() and (tmp_path / "non-finite.ckpt").exists()


# The autoencoder -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    videos = write_videos(tmp_path_factory.mktemp("videos"))
    return instantiate(data_of(video_set(videos, clips_per_video=2), video_set(videos, random_clip=False)))


def autoencoder(**options) -> AutoencoderTraining:
    torch.manual_seed(0)
    scales = {name: options.pop(name) for name in ("scale", "shift") if name in options}
    return AutoencoderTraining(codec=Codec(instantiate(AUTOENCODER), **scales), **options)


def test_the_measured_scale_and_shift_make_latents_of_unit_variance_and_no_mean(data):
    module = autoencoder(optimizer=AdamW(lr=3e-3))
    fit(module, ExponentialAverage(0.5), data=data)
    latents = torch.cat([module.codec.encode(batch["video"]) for batch in data.train_dataloader()])
    assert float(latents.mean()) == pytest.approx(0, abs=1e-4)
    assert float(latents.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_while_training_the_scale_is_that_of_validation_videos(data):
    seen = {}

    class Look(pl.Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            latents = torch.cat([pl_module.codec.encode(batch["video"]) for batch in trainer.val_dataloaders])
            seen[trainer.global_step] = float(latents.mean()), float(latents.std(correction=0))

    fit(autoencoder(optimizer=AdamW(lr=3e-3)), Look(), data=data, max_steps=2, val_check_interval=1, limit_val_batches=None)
    assert seen == {1: pytest.approx((0, 1), abs=1e-4), 2: pytest.approx((0, 1), abs=1e-4)}
    fit(autoencoder(scale=0.5), Look(), data=data, max_steps=1, val_check_interval=1, limit_val_batches=None)
    assert seen[1] != pytest.approx((0, 1), abs=1e-2)


def test_a_given_scale_is_kept_and_one_that_came_with_weights_is_measured_again(data):
    given = autoencoder(scale=0.5, shift=0.1)
    fit(given, data=data, max_steps=1)
    assert (given.codec.scale, given.codec.shift) == (0.5, 0.1)
    started = autoencoder()
    started.codec.set_scale(0.5, 0.1)
    fit(started, data=data, max_steps=1)
    assert started.codec.scale != 0.5
    kept = autoencoder(measure_batches=0)
    fit(kept, data=data, max_steps=1)
    assert (kept.codec.scale, kept.codec.shift) == (1.0, 0.0)


class Distance(nn.Module):
    """In the place of LPIPS: fixed weights and buffers, a number per image."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, made: Tensor, frames: Tensor) -> Tensor:
        assert made.shape[1] == 3 and made.ndim == 4
        return (self.map(made) - self.map(frames)).square().mean((1, 2, 3), keepdim=True)


def test_perceptual_features_are_trained_with_but_neither_saved_nor_averaged(data, monkeypatch, tmp_path):
    monkeypatch.setattr(reconstruction, "lpips_distance", lambda *net, **options: Distance())
    module = autoencoder(loss=ReconstructionLoss(l1=1.0, lpips=2.0))
    names = module.state_dict().keys()
    trainer = fit(module, ExponentialAverage(0.5), data=data, max_steps=2, val_check_interval=2, check_val_every_n_epoch=None)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert module.state_dict().keys() == names == torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"].keys()
    assert {"train/l1", "train/lpips", "val/lpips", "val/ssim", "val/psnr"} <= trainer.callback_metrics.keys()
    video, other = torch.rand(2, 3, 4, 16, 16), torch.rand(2, 3, 4, 16, 16)
    out = module.loss(video, other, module.autoencoder.encode(video))
    flat = [v.transpose(1, 2).flatten(0, 1) for v in (other, video)]
    torch.testing.assert_close(out.parts["lpips"], module.loss._perceptual[0](*flat).mean())


def perceptual_loss(distance: nn.Module, video: Tensor, made: Tensor, *, generator=None, **options) -> tuple[Tensor, Tensor]:
    """The loss and its gradient in what was made."""
    loss = ReconstructionLoss(l1=0.0, lpips=1.0, **options)
    loss._perceptual = (distance,)
    made = made.clone().requires_grad_()
    value = loss(video, made, None, generator).loss
    return value.detach(), torch.autograd.grad(value, made)[0]


def test_perceptual_distance_in_tiles_is_that_of_all_frames():
    distance, (video, made) = Distance(), torch.rand(2, 2, 3, 5, 16, 16)
    whole, tiled = perceptual_loss(distance, video, made), perceptual_loss(distance, video, made, lpips_at_once=3)
    torch.testing.assert_close(tiled, whole)


def test_perceptual_distance_of_some_frames_is_of_other_ones_at_each_step_and_of_all_in_validation():
    distance, (video, made) = Distance(), torch.rand(2, 2, 3, 5, 16, 16)
    seen = []
    for step in range(20):
        _, gradient = perceptual_loss(distance, video, made, lpips_frames=2, generator=torch.Generator().manual_seed(step))
        frames = gradient.abs().sum((0, 1, 3, 4)).nonzero().flatten().tolist()
        assert len(frames) == 2
        seen += frames
    assert set(seen) == set(range(5))
    torch.testing.assert_close(perceptual_loss(distance, video, made, lpips_frames=2), perceptual_loss(distance, video, made))
    with pytest.raises(UserError, match="lpips_frames is 2, but has no effect while lpips is 0"):
        ReconstructionLoss(lpips_frames=2)


def test_training_without_perceptual_features_stops_before_it_begins_and_says_how_to_do_without(monkeypatch, tmp_path):
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("LVDM_OFFLINE", "1")
    with pytest.raises(UserError, match=r"vgg16-397923af.pth is not there .*LVDM_WEIGHTS, or set the weight lpips .*to 0"):
        autoencoder(loss=ReconstructionLoss(lpips=1.0)).setup("fit")
