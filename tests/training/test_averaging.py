"""The average of the weights in float32, and after every batch; accumulated batches of which some frames do not count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from test_adversary import Descent
from test_training_loop import QUIET, Samples, Watch, fit, place_draw, short, weights

from lvdm.diffusion.masks import FirstFrames
from lvdm.training import ExponentialAverage, GivenFrames, Task
from lvdm.training.lightning_internals import average_model


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_the_average_is_in_float32_and_validation_leaves_it_alone(precision):
    """Of weights in bfloat16 too, where a change of 1e-4 would be rounded away, and so would the average at each validation."""
    averages = []
    for interval in (2, 100):
        watch, averaging = Watch(), ExponentialAverage(0.9)
        steps = {"max_steps": 6, "val_check_interval": interval, "check_val_every_n_epoch": None, "precision": precision}
        fit(short(), watch, averaging, **steps)
        average = watch.trained[0].float()
        for n, trained in enumerate(watch.trained[1:], start=1):
            decay = min(0.9, (1 + n) / (10 + n))
            average = decay * average + (1 - decay) * trained.float()
        kept = weights(average_model(averaging).module.denoiser)
        assert kept.dtype == torch.float32 and watch.trained[0].dtype == getattr(torch, precision_type(precision))
        torch.testing.assert_close(kept, average, atol=1e-6, rtol=1e-5)
        averages.append(kept)
    assert torch.equal(*averages)


def precision_type(precision: str) -> str:
    return {"32-true": "float32", "bf16-true": "bfloat16"}[precision]


def test_an_average_of_each_batch_counts_accumulated_ones_too():
    """Published: updated after every batch (lvdm/models/ddpm3d.py:388), so twice in a step of two batches."""
    watch, averaging = Watch(), ExponentialAverage(0.3, each_batch=True)
    fit(short(), watch, averaging, accumulate_grad_batches=2, max_steps=4)
    assert len(watch.trained) == 8 and torch.equal(watch.trained[1], watch.trained[2])
    average = watch.trained[0]
    for n, trained in enumerate(watch.trained[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * trained
    torch.testing.assert_close(weights(average_model(averaging).module.denoiser), average, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_accumulated_batches_count_every_new_frame_alike(monkeypatch, clip):
    """The halves give 3 and 1 of 6 frames: the mean over new frames is not the mean of two means."""
    samples = [Samples()[index] for index in range(4)]
    counts = [1, 2, 0, 1]
    made = []
    for size, accumulate in ((4, 1), (2, 2)):
        tasks = {str(count): Task(FirstFrames([count])) for count in range(3)}
        module = short(tasks=tasks, given=GivenFrames(loss="new", max_level=5), optimizer=Descent())

        def draw(batch, _, rng, share, draw=module.draw, tasks=tasks):
            chosen = {index: tasks[str(counts[index])] for index in batch["index"].tolist()}
            together = place_draw(draw, batch, chosen)
            return replace(together, new_fraction=float(1 - together.cond.mask.mean()))

        monkeypatch.setattr(module, "draw", draw)
        before = weights(module.denoiser)
        trainer = pl.Trainer(**QUIET, max_steps=1, accumulate_grad_batches=accumulate, gradient_clip_val=clip)
        trainer.fit(module, torch.utils.data.DataLoader(samples, batch_size=size))
        made.append(weights(module.denoiser) - before)
        assert clip is None or float(made[-1].norm()) == pytest.approx(clip, rel=1e-3)
    assert float((made[0] - made[1]).norm() / made[0].norm()) < 1e-4
