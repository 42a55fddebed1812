"""The column `published` of docs/published-settings.md against published_lvdm.yaml, where the published files are recorded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_published_settings import ROWS, Row

RECORD = yaml.safe_load((Path(__file__).parent / "published_lvdm.yaml").read_text())
FILES = {"predict_sky": "configs/lvdm_long/sky_pred.yaml", "infill_sky": "configs/lvdm_long/sky_interp.yaml"} | {
    f"{ours}_{data}": f"configs/{folder}/{theirs}.yaml"
    for ours, folder in (("autoencoder", "videoae"), ("short", "lvdm_short"))
    for data, theirs in (("sky", "sky"), ("ucf101", "ucf"), ("taichi", "taichi"))
}
ENCODER, PARAMS, UNET = "model.params.codec.params.autoencoder.params", "model.params", "model.params.unet_config.params"
TRAINER, TRAIN, VAL = "lightning.trainer", "data.params.train.params", "data.params.validation.params"
LOSS, ADVERSARY = f"{PARAMS}.lossconfig.params", "model.params.adversary.params"
KEYS = {  # our key: the published one
    f"{ENCODER}.channels": f"{PARAMS}.ddconfig.encoder.params.n_hiddens",
    f"{ENCODER}.downsample": f"{PARAMS}.ddconfig.encoder.params.downsample",
    f"{ENCODER}.latent_channels": f"{PARAMS}.embed_dim",
    "model.params.loss.params.kl": f"{LOSS}.kl_weight",
    f"{ADVERSARY}.weight": f"{LOSS}.disc_weight",
    f"{ADVERSARY}.start_step": f"{LOSS}.disc_start",
    **dict.fromkeys((f"{ADVERSARY}.optimizer.params.lr", "model.params.optimizer.params.lr"), "model.base_learning_rate"),
    **{
        f"model.params.denoiser.params.{key}": f"{UNET}.{key}"
        for key in ("in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks", "attention_resolutions")
    },
    **{f"model.params.denoiser.params.{key}": f"{UNET}.{key}" for key in ("num_heads", "temporal_length")},
    "model.params.denoiser.params.checkpointing": f"{UNET}.use_checkpoint",
    "model.params.denoiser.params.mask_channel": f"{UNET}.in_channels",
    "model.params.denoiser.params.noise_level": f"{UNET}.num_classes",
    "model.params.num_latents": f"{UNET}.temporal_length",
    **{f"model.params.codec.params.{key}": f"{PARAMS}.{key}_factor" for key in ("scale", "shift")},
    **{f"model.params.schedule.params.{key}": f"{PARAMS}.linear_{key}" for key in ("start", "end")},
    "model.params.loss.target": f"{PARAMS}.loss_type",
    "model.params.learning_rate": f"{PARAMS}.scheduler_config",
    "model.params.given.params.max_level": f"{PARAMS}.max_noise_level",
    **{f"model.params.tasks.{task}.params.stride": f"{PARAMS}.latent_frame_strde" for task in ("predict", "infill")},
    "model.params.tasks.predict.params.mask.params.masks.0.params.counts": f"{PARAMS}.n_prevs",
    "model.params.tasks.predict.params.mask.params.probabilities": f"{PARAMS}.p_pred",
    "model.params.tasks.infill.params.mask.params.probabilities": f"{PARAMS}.p_interp",
    **{f"data.params.{key}": f"data.params.{key}" for key in ("batch_size", "num_workers")},
    **{f"trainer.{key}": f"{TRAINER}.{key}" for key in ("accumulate_grad_batches", "num_nodes", "max_epochs", "benchmark")},
    **{f"trainer.{key}": f"{TRAINER}.{key}" for key in ("gradient_clip_val", "val_check_interval", "limit_val_batches")},
    **{
        f"data.params.{ours}.params.{key}": f"{part}.{theirs}"
        for ours, part in (("train", TRAIN), ("val", VAL))
        for key, theirs in {
            **{"root": "subset_split", "layout.params.part": "subset_split", "num_frames": "video_length"},
            **{"size": "resolution", "stride": "frame_stride"},
        }.items()
    },
    "data.params.val.params.random_clip": f"{VAL}.temporal_transform",
}
CODE = {  # our key: the name in a recorded line of code
    "model.params.loss.params.lpips": "perceptual_weight",
    "model.params.objective.target": "parameterization",
    "model.params.optimizer.target": "optimizer",
    "model.params.given.params.loss": "mask_cond_loss",
    "average": "decay",
    "trainer.precision": "precision",
    "sampling.sampler": "sample_type",
    "sampling.steps": "ddim_steps",
    "sampling.eta": "eta",
    "sampling.overlap": "T_cond",
    "sampling.guidance": "uncond_scale",
    "sampling.key_stride": "latent_frame_strde",
    **dict.fromkeys(("sampling.condition_noise", "sampling.gap_noise"), "sample_cond_noise_level"),
    **dict.fromkeys((f"{ADVERSARY}.optimizer.params.betas", "model.params.optimizer.params.betas"), "betas"),
}
ABSENT = {  # what the published code, or its Lightning 1.4, takes if a file is silent
    "trainer.max_epochs": 1000,
    "trainer.val_check_interval": "once an epoch",
    "trainer.limit_val_batches": "all",
    "model.params.tasks.infill.params.stride": 1,
    "data.params.val.params.random_clip": True,  # lvdm/data/taichi.py:70
}
IN_OUR_WORDS: dict[str, Callable[[Any], Any]] = {
    "model.params.denoiser.params.in_channels": lambda channels: channels - (channels == 5),  # the fifth is the mask
    "model.params.denoiser.params.mask_channel": lambda channels: channels == 5,
    "model.params.denoiser.params.noise_level": {251: "embedding"}.get,
    "model.params.loss.target": {"l1": "lvdm.diffusion.losses.L1Loss"}.get,
    "model.params.objective.target": {"eps": "lvdm.diffusion.objectives.EpsObjective"}.get,
    "model.params.optimizer.target": {"AdamW": "lvdm.training.AdamW"}.get,
    "model.params.given.params.loss": {False: "all"}.get,
    "trainer.precision": {32: "32-true"}.get,
    "model.params.tasks.predict.params.mask.params.probabilities": lambda p: [p, 1 - p],
    "model.params.tasks.infill.params.mask.params.probabilities": lambda p: [p, round(1 - p, 9)],
    **{f"data.params.{part}.params.root": lambda split: f"${{define.data}}/{split}" for part in ("train", "val")},
    "data.params.val.params.random_clip": lambda transform: transform in ("rand_clips", True),
}
OF_BEHAVIOUR = {  # what no single value of the source says; the line that the table cites has to be read
    *(f"model.params.loss.params.{key}" for key in ("l1", "reduction", "learned_scale")),
    *(f"{ADVERSARY}.{key}" for key in ("discriminators.0.target", "second_pass", "optimizer.params.weight_decay")),
    *("model.params.optimizer.params.weight_decay", "model.params.sample_posterior", "average_each_batch"),
    *(f"model.params.{part}.target" for part in ("schedule", "times")),
    *("model.params.tasks.predict.params.random_start", "model.params.tasks.infill.params.mask.params.masks.0.target"),
    *(f"data.params.{part}.params.resize" for part in ("train", "val")),
    "sampling.spacing",
}


def recorded(row: Row, name: str) -> Any:
    """Return the recorded value of a row in one config, in our words."""
    if row.key in CODE:
        (value,) = (facts[CODE[row.key]] for at, facts in RECORD["code"].items() if at in row.source and CODE[row.key] in facts)
    else:
        facts, key = RECORD[FILES[name]], KEYS[row.key]
        if row.key.startswith(ENCODER) and not name.startswith("autoencoder"):
            key = key.replace(PARAMS, f"{PARAMS}.first_stage_config.params", 1)
        value = facts.get(key, "absent")
        if key == "model.base_learning_rate" and facts["model.scale_lr"] == "absent":
            return f"{value * 1e5:g}e-5 x GPUs x accumulation"
    if value == "absent":
        value = ABSENT.get(row.key, "none")
    return IN_OUR_WORDS.get(row.key, lambda same: same)(value)


NOT_DONE = {("average", "0"), ("sampling.guidance", "0.0")}  # rows of something that the published code lacks
HELD = [row for row in ROWS if row.key not in OF_BEHAVIOUR and (row.key, row.published) not in NOT_DONE]


@pytest.mark.parametrize("row", HELD, ids=lambda row: f"{row.key}-{row.published}")
def test_the_published_column_is_what_the_published_files_set(row: Row) -> None:
    said = yaml.safe_load(row.published)
    assert {name: recorded(row, name) for name in row.configs} == dict.fromkeys(row.configs, said)
