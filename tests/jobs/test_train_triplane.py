"""An autoencoder of three planes trains from a config, with discriminators, and its model file codes clips."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_planes import TINY_AE
from tiny_training import adversarial_config, write_config, write_videos

from lvdm.cli import train
from lvdm.jobs.load import load


def test_it_trains_against_staged_discriminators_and_its_file_codes_clips(tmp_path: Path) -> None:
    config = adversarial_config(write_videos(tmp_path / "videos"), tmp_path)
    network = {"target": "lvdm.models.autoencoders.TriplaneAE", "params": {**TINY_AE, "size": 16, "num_frames": 8, "patch": 4}}
    params = config["model"]["params"]
    params["codec"] = {"target": "lvdm.models.codec.Codec", "params": {"autoencoder": {**network}}}
    staged = {"target": "lvdm.models.autoencoders.StagedDiscriminator"}
    params["adversary"]["params"]["discriminators"] = [
        {**staged, "params": {"dims": dims, "channels": 4, "layers": 1, "norm": "group"}} for dims in (2, 3)
    ]
    params["measure_batches"] = 0  # published latents are not scaled
    assert train.main([write_config(tmp_path / "planes.yaml", config)]) == 0
    (file,) = tmp_path.rglob("model.safetensors")
    codec = load(file).codec
    latent = codec.encode(torch.zeros(1, 3, 8, 16, 16))
    assert latent.shape == (1, 3, 4 * 4 + 2 * 8 * 4) and (codec.scale, codec.shift) == (1.0, 0.0)
    assert codec.decode(latent).shape == (1, 3, 8, 16, 16)
