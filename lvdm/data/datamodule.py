"""The data of a run for Lightning: loaders over the data sets that the config builds."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from lvdm.data.loading import ClipLoader, ClipSet, EpochSampler
from lvdm.data.video_folder import VideoFolder
from lvdm.rules import integer, optional, require
from lvdm.types import UserError, check_contract


class VideoData(pl.LightningDataModule):
    """Training and validation batches. `VideoFolder` gives `video`, `LatentClips` gives `latent`; any `ClipSet` will do.

    Args:
        train: the data set of training, in a new order each epoch; samples that do not fill a batch wait for another epoch.
        val: the data set of validation, always the same clips in the same order; None for no validation.
        batch_size: samples of a batch in each process.
        val_batch_size: the same for validation; left out, as for training.
        num_workers: processes that read ahead; 0 reads in the training process itself.
        prefetch_factor: batches that each worker reads ahead; left out, 2.
        seed: of the order; the data sets have their own seeds for the clips.
    """

    def __init__(
        self,
        train: ClipSet,
        val: ClipSet | None = None,
        *,
        batch_size: int,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if prefetch_factor is not None and num_workers == 0:
            raise UserError(f"prefetch_factor={prefetch_factor} has no effect without workers; raise num_workers or leave it out")
        require(integer(1, 10**6), batch_size=batch_size)
        require(optional(integer(1, 10**6)), val_batch_size=val_batch_size)
        require(integer(0, 1024), num_workers=num_workers)
        require(optional(integer(1, 1024)), prefetch_factor=prefetch_factor)
        if val is None and val_batch_size is not None:
            raise UserError(f"val_batch_size={val_batch_size} has no effect without val; give a data set or leave it out")
        for part in (train, val):
            if part is not None:
                check_contract(part, ClipSet)
        self.train, self.val = train, val
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.num_workers, self.prefetch_factor, self.seed = num_workers, prefetch_factor, seed

    def setup(self, stage: str | None = None) -> None:
        """Look at the disk, so that errors in the data come before training starts."""
        if stage != "validate":
            self.train.prepare()
        if self.val is not None:
            self.val.prepare()

    def record_skipped(self, file: Path) -> None:
        """Name every video that is skipped, now or later and in any process, in this file."""
        for part in (self.train, self.val):
            if isinstance(part, VideoFolder):
                part.record_skipped(file)

    def train_dataloader(self) -> ClipLoader:
        sampler = EpochSampler(self.train, seed=self.seed, shuffle=True)
        if len(sampler) < self.batch_size:
            have = f"{len(self.train)} samples for {sampler.num_replicas} process(es)"
            raise UserError(f"there are {have}, fewer than a batch of {self.batch_size}; lower batch_size, raise clips_per_video")
        return self._loader(self.train, sampler, self.batch_size)

    def val_dataloader(self) -> ClipLoader | list[ClipLoader]:
        if self.val is None:
            return []
        if len(self.val) == 0:
            raise UserError("the data set of validation has no samples; give another, or leave val out")
        return self._loader(self.val, EpochSampler(self.val, seed=self.seed, shuffle=False), self.val_batch_size)

    def _loader(self, data: ClipSet, sampler: EpochSampler, batch_size: int) -> ClipLoader:
        return ClipLoader(
            data,  # type: ignore[arg-type]  # any object with __len__ and __getitem__ will do
            batch_size=batch_size,
            sampler=sampler,
            drop_last=sampler.shuffle,
            num_workers=self.num_workers,
            prefetch_factor=self.prefetch_factor,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
