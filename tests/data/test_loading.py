"""Which sample when: only (seed, epoch) changes the order, in any number of processes, and a restart goes on within an epoch."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvdm.data import Draw, VideoData
from lvdm.data.loading import EpochSampler
from lvdm.types import UserError


class Numbers:
    """A data set whose items tell their draw."""

    def __init__(self, length: int) -> None:
        self.length = length

    def prepare(self) -> None:
        pass

    def fingerprint(self) -> str:
        return "numbers"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: int | Draw) -> dict[str, int]:
        assert isinstance(key, Draw)
        return {"epoch": key.epoch, "index": key.index}


def batches(loader: object, epoch: int) -> list[tuple[int, ...]]:
    loader.sampler.set_epoch(epoch)
    return [(*batch["epoch"].tolist(), *batch["index"].tolist()) for batch in loader]


def test_training_takes_each_sample_once_an_epoch_in_new_order_and_validation_always_the_same() -> None:
    module = VideoData(Numbers(11), Numbers(5), batch_size=3, val_batch_size=2)
    train, val = module.train_dataloader(), module.val_dataloader()
    first, second = batches(train, 0), batches(train, 1)
    for epoch, seen in enumerate((first, second)):
        assert [batch[:3] for batch in seen] == [(epoch,) * 3] * 3
        assert len({index for batch in seen for index in batch[3:]}) == 9
    assert [batch[3:] for batch in first] != [batch[3:] for batch in second]
    assert batches(val, 0) == batches(val, 7) == [(0, 0, 0, 1), (0, 0, 2, 3), (0, 4)]


def test_processes_share_the_batches_that_one_process_would_see() -> None:
    def order(world_size: int, rank: int) -> list[int]:
        sampler = EpochSampler(Numbers(26), seed=5, shuffle=True, processes=(world_size, rank))
        sampler.set_epoch(2)
        return [draw.index for draw in sampler]

    alone, ranks = order(1, 0), [order(4, rank) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [6] * 4
    for step in range(3):  # batches of 2 in 4 processes are the batch of 8 in one
        together = {index for rank in ranks for index in rank[2 * step : 2 * step + 2]}
        assert together == set(alone[8 * step : 8 * step + 8])
    val = [list(EpochSampler(Numbers(6), seed=0, shuffle=False, processes=(4, rank))) for rank in range(4)]
    assert [[draw.index for draw in rank] for rank in val] == [[0, 4], [1, 5], [2, 0], [3, 1]]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="3 samples .* fewer than a batch of 4"):
        VideoData(Numbers(3), batch_size=4).train_dataloader()
    with pytest.raises(UserError, match="the data set of validation has no samples"):
        VideoData(Numbers(3), Numbers(0), batch_size=1).val_dataloader()
    with pytest.raises(UserError, match="prefetch_factor=4 has no effect"):
        VideoData(Numbers(3), batch_size=1, prefetch_factor=4)
    with pytest.raises(UserError, match="val_batch_size=4 has no effect"):
        VideoData(Numbers(3), batch_size=1, val_batch_size=4)


class Witness(pl.LightningModule):
    """Remembers the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch: dict, _: int) -> torch.Tensor:
        self.seen.append((*batch["epoch"].tolist(), *batch["index"].tolist()))
        return self.weight.sum()

    def validation_step(self, batch: dict, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (0, 3), (1, 1.0)])
def test_a_run_resumed_within_an_epoch_sees_the_batches_it_would_have_seen(tmp_path: Path, workers: int, limit: float) -> None:
    def seen(steps: int, start: Path | None = None) -> list[tuple[int, ...]]:
        saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = pl.Trainer(
            max_steps=steps, max_epochs=-1, callbacks=[saving], limit_train_batches=limit, val_check_interval=2, **quiet
        )
        module = Witness()
        data = VideoData(Numbers(11), Numbers(5), batch_size=2, num_workers=workers)
        trainer.fit(module, datamodule=data, ckpt_path=start, **({"weights_only": True} if start else {}))
        return module.seen

    whole = seen(12)
    for step in (2, 5, 7, 10) if workers == 0 else (7,):
        assert seen(12, tmp_path / f"step={step}.ckpt") == whole[step:]


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 4))
def test_every_epoch_shuffles_all_samples(length: int, epoch: int) -> None:
    sampler = EpochSampler(Numbers(length), seed=0, shuffle=True, processes=(1, 0))
    sampler.set_epoch(epoch)
    assert sorted(draw.index for draw in sampler) == list(range(length))
