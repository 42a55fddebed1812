"""Class conditioning in training: the null class, and data that do not fit the classes of the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_training import batch, fixed_draw, stage
from tiny_training import UNET, video_set, write_videos
from torch import Tensor, nn

from lvdm.config import instantiate
from lvdm.data import VideoData
from lvdm.jobs.checks import check_labels
from lvdm.models.denoisers import DiT3D, UNet3D
from lvdm.training.diffusion import LatentDiffusion, LossInputs
from lvdm.training.seeding import Share
from lvdm.types import ABSENT, Condition, UserError


def with_classes(**options: object) -> LatentDiffusion:
    return stage(denoiser=UNet3D(**UNET, num_labels=3), **options)


def labelled(model: LatentDiffusion, labels: Tensor) -> LossInputs:
    draw = fixed_draw()
    cond = Condition(mask=draw.cond.mask, frame_noise=draw.cond.frame_noise, label=labels)
    many = LossInputs(draw.x0, draw.eps, torch.zeros(len(labels)), cond)
    return model.without_some_labels(many, torch.Generator().manual_seed(0))


def test_a_share_of_the_samples_loses_its_class() -> None:
    """Each by itself, with the stated probability: 2,000 of 8,000 within four standard deviations."""
    labels = torch.arange(8000) % 3
    kept = labelled(with_classes(label_dropout=0.25), labels).cond.label
    is_left_out = kept == ABSENT
    assert abs(int(is_left_out.sum()) - 2000) < 4 * (8000 * 0.25 * 0.75) ** 0.5
    assert torch.equal(kept[~is_left_out], labels[~is_left_out])
    assert torch.equal(labels, torch.arange(8000) % 3), "the batch is left as it was"


def test_processes_leave_out_what_one_would() -> None:
    model, labels, rng = with_classes(label_dropout=0.5), torch.arange(64) % 3, lambda: torch.Generator().manual_seed(0)
    draw = labelled(with_classes(), labels)
    whole = model.without_some_labels(draw, rng()).cond.label
    for rank in range(2):
        part = LossInputs(draw.x0, draw.eps, draw.t[rank::2], Condition(label=labels[rank::2]))
        assert torch.equal(model.without_some_labels(part, rng(), Share(rank, 2)).cond.label, whole[rank::2])


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_the_network_gets_the_null_class_in_a_training_step(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_classes(label_dropout=dropout)
    seen: list[list[int]] = []
    model.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].label.tolist()))
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    monkeypatch.setattr(LatentDiffusion, "global_step", 0, raising=False)
    model.training_step({**batch(4), "label": torch.tensor([0, 1, 2, 0])}, 0)
    assert seen == [[0, 1, 2, 0] if dropout == 0 else [ABSENT] * 4]


def test_dropout_of_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="label_dropout has no effect on a denoiser without classes"):
        stage(denoiser=UNet3D(**UNET), label_dropout=0.1)
    with pytest.raises(UserError, match="label_dropout is 2"):
        with_classes(label_dropout=2)


# Data that do not fit ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos") / "plain", count=2)


def data(root: Path) -> VideoData:
    return VideoData(instantiate(video_set(root)), batch_size=1)


def test_classes_without_labels_are_refused_before_training(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_labels 3, but no video of train has a class; add labels"):
        check_labels(data(videos), with_classes())
    shutil.copytree(videos, tmp_path / "labelled")
    lines = [json.dumps({"file": f"{index}.mp4", "label": label}) for index, label in enumerate((1, 5))]
    (tmp_path / "labelled" / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match="data of train has class 5, and the denoiser knows 0 to 2; set num_labels: 6"):
        check_labels(data(tmp_path / "labelled"), with_classes())
    check_labels(data(tmp_path / "labelled"), stage(denoiser=UNet3D(**UNET, num_labels=6)))
    check_labels(data(videos), stage(denoiser=UNet3D(**UNET)))


def test_a_users_own_data_are_checked_batch_by_batch() -> None:
    model = with_classes()
    with pytest.raises(UserError, match="the data has no classes; give every item a label"):
        model.on_before_batch_transfer(batch(2), 0)
    with pytest.raises(UserError, match="a label is 3, and the network knows classes 0 to 2"):
        model.on_before_batch_transfer({**batch(2), "label": torch.tensor([0, 3])}, 0)
    fits = {**batch(2), "label": torch.tensor([ABSENT, 2])}
    assert model.on_before_batch_transfer(fits, 0) is fits


@pytest.mark.parametrize("network", [UNet3D(**UNET, num_labels=3), DiT3D(2, 2, 32, 1, 2, 1, num_labels=3)])
def test_a_network_refuses_a_class_that_it_does_not_have(network: nn.Module) -> None:
    """Not with the IndexError of its embedding."""
    fps = torch.ones(1) if network.inputs.fps else None
    x, t = torch.zeros(1, 2, 3, 4, 4), torch.zeros(1)
    with pytest.raises(UserError, match="a label is 7, and the network knows classes 0 to 2"):
        network(x, t, Condition(label=torch.tensor([7]), fps=fps))
    network(x, t, Condition(label=torch.tensor([ABSENT]), fps=fps))
