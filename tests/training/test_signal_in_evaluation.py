"""A run that is told to end within a long evaluation leaves it after the group of clips at hand, and repeats it when resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from test_lost_validation import EVALUATION, assert_same_runs
from tiny_training import checkpoint, diffusion_config, write_config

from lvdm.cli import train
from lvdm.evaluation.sources.model import ModelSource


def test_a_signal_is_obeyed_between_groups_of_clips(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv("LVDM_CACHE", str(tmp_path / "cache"))
    config = diffusion_config(made / "latents", tmp_path, made / "autoencoder" / "model.safetensors")
    config["evaluation"] = {**EVALUATION, "real": str(made / "videos"), "every": 1, "fewer": 3, "batch_size": 1}
    arguments = [write_config(tmp_path / "config.yaml", config), "trainer.max_steps=4"]
    assert train.main([*arguments, "--name", "whole"]) == 0
    groups, sample = [], ModelSource._videos

    def sample_and_tell(self: ModelSource, numbers: range, *rest: object) -> object:
        groups.append(numbers)
        os.kill(os.getpid(), signal.SIGTERM)
        return sample(self, numbers, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ModelSource, "_videos", sample_and_tell)
        for _ in range(2):  # the second one while it makes up for the evaluation
            assert train.main([*arguments, "--name", "told"]) == 143
            assert checkpoint(tmp_path / "told")["global_step"] == 2
    assert len(groups) == 2, "one group of three in each start"
    assert train.main([*arguments, "--name", "told"]) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "told")
