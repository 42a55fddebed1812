"""A denoiser in parts over two processes (gloo) is trained, saved and gone on with as a whole one is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file
from test_processes import train_in_two
from tiny_training import UNET, Config, checkpoint, diffusion_config, write_config
from torch import distributed

from lvdm.cli import train
from lvdm.models.denoisers import UNet3D
from lvdm.training.sharding import full_state, shard_network

WHOLE, PARTS = ["data.params.batch_size=4"], ["data.params.batch_size=2", "trainer.strategy=fsdp"]
OPTIMIZERS = {"AdamW": {"lr": 1e-4}, "Muon": {"lr": 1e-3, "adamw_lr": 1e-4}}


def config_of(optimizer: str, made: Path, out: Path) -> str:
    config: Config = diffusion_config(made / "latents", out, made / "autoencoder" / "model.safetensors")
    config["model"]["params"] |= {"optimizer": {"target": f"lvdm.training.{optimizer}", "params": OPTIMIZERS[optimizer]}}
    config["model"]["params"]["denoiser"]["params"] |= {"checkpointing": True}
    config["trainer"] = {**config["trainer"], "gradient_clip_val": 0.5, "val_check_interval": 2}
    return write_config(out / "config.yaml", {**config, "average": 0.5, "previews": {"num": 3, "steps": 2}})


def assert_same_training(one: Path, two: Path) -> None:
    """Weights, averages and the optimizer's states, in the checkpoint and in the model file."""
    ours, theirs = checkpoint(two), checkpoint(one)
    assert ours["global_step"] == theirs["global_step"]
    for part in ("state_dict", "current_model_state"):
        assert_close(ours[part], theirs[part], part)
    states = zip(ours["optimizer_states"][0]["state"].values(), theirs["optimizer_states"][0]["state"].values(), strict=True)
    for number, (our, their) in enumerate(states):
        assert_close(our, their, f"the optimizer's state {number}")
    assert_close(*(load_file(run / "model.safetensors") for run in (two, one)), "model.safetensors")


def assert_close(ours: Config, theirs: Config, where: str) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-3, msg=f"{where}: {name}")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parts_make_the_weights_of_a_whole(optimizer: str, made: Path, tmp_path: Path) -> None:
    config = config_of(optimizer, made, tmp_path)
    assert train.main([config, *WHOLE, "trainer.max_steps=4", "--name", "one"]) == 0
    train_in_two(config, *PARTS, "trainer.max_steps=4", "--name", "two")
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_a_run_goes_on_in_parts_and_then_whole_again(made: Path, tmp_path: Path) -> None:
    config = config_of("Muon", made, tmp_path)
    assert train.main([config, *WHOLE, "trainer.max_steps=6", "--name", "one"]) == 0
    assert train.main([config, *WHOLE, "trainer.max_steps=2", "--name", "two"]) == 0
    train_in_two(config, *PARTS, "trainer.max_steps=4", "--name", "two")
    assert train.main([config, *WHOLE, "trainer.max_steps=6", "--name", "two"]) == 0
    assert_same_training(tmp_path / "one", tmp_path / "two")


def shard_in(rank: int, file: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = UNet3D(**UNET)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    shard_network(network, "cpu")
    held = sum(parameter.to_local().numel() for parameter in network.parameters())
    assert held < 0.6 * sum(parameter.numel() for parameter in network.parameters())
    after = full_state(network.state_dict())
    if rank == 0:
        assert all(torch.equal(after[name], before[name]) for name in before)
    assert {tensor.numel() for tensor in after.values()} == {0} or rank == 0, "the first process alone keeps what is whole"
    distributed.destroy_process_group()


def test_each_process_holds_its_part_alone(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(shard_in, args=(str(tmp_path / "meet"),), nprocs=2)
