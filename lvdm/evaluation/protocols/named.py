"""The named protocols, each complete, with its source and with what had to be inferred.

A number of one is comparable with numbers of the same one only: the same videos score differently under each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lvdm.evaluation.metrics import frames, frechet, inception, kernel, motion  # a new metric stands here
from lvdm.evaluation.metrics.metric import METRICS
from lvdm.evaluation.protocols.protocol import LATER, PROTOCOLS, EvalProtocol, differences
from lvdm.models.features.registry import hint
from lvdm.types import UserError

__all__ = ["CUSTOM_BASE", "PROTOCOLS", "EvalProtocol", "changed_protocol", "differences", "get_protocol", "read_protocol"]

SHIPPED = (frames, frechet, kernel, inception, motion)  # modules that add their metrics when they are imported
CUSTOM_BASE = "lvdm-fvd2048"  # what a protocol that is only called "custom" starts from

_STYLEGANV = EvalProtocol(
    name="styleganv-fvd2048-16f",
    version=1,
    metrics=("fvd",),
    extractor="i3d-torchscript",
    frames=16,
    num_real=2048,
    num_fake=2048,
    resolution=256,
    resize="lanczos, crop",
    quantise="round",
    order="sorted",
    needed_frames="frames * stride",
    ddof=0,
    source="StyleGAN-V (Skorokhodov et al. 2022), its released code: metrics fvd2048_16f, fvd2048_128f, fvd2048_128f_subsample8f",
    notes=(
        "Real clips come from the first 2048 videos by base name, as in one flat folder. The published numbers of UCF-101 use "
        "the split train+test; those of other sets the train part. The published frames were stored as JPEG of quality 75, and a "
        "smaller set was taken whole without a word. Inferred: batch-norm eps 1e-3 inside the TorchScript file, and that the "
        "archives of the published numbers were in the order of names."
    ),
)
_LVDM = EvalProtocol(
    name="lvdm-fvd2048",
    version=1,
    metrics=("fvd", "kvd"),
    extractor="i3d",
    frames=16,
    num_real=2048,
    num_fake=2048,
    resolution=256,
    resize="bilinear, crop",
    antialias=False,
    order="shuffled",
    runs=10,
    ddof=1,
    source="LVDM (He et al. 2022), its released evaluation script for FVD and KVD with 10 runs",
    notes=(
        "One random clip a video, of Sky's train part and of UCF-101's train and test: give the split train+test there. Its "
        "Taichi loader ignores the stride it is given and stretches frames to the square. Where the last batch was not full the "
        "script dropped it; here no generated clip is dropped. Inferred: resizing without antialiasing, which was the default of "
        "the libraries of its time."
    ),
)
_TATS = EvalProtocol(
    name="tats",
    version=2,
    metrics=("fvd", "kvd"),
    extractor="i3d",
    frames=16,
    num_real=2048,
    num_fake=2048,
    resolution=128,
    resize="bilinear, crop",
    antialias=False,
    long_side="ceil",
    crop="floor",
    real_clips="every window",
    order="shuffled",
    ddof=1,
    source="TATS (Ge et al. 2022), its released code: FVD and KVD of 2048 clips at 128 pixels",
    notes=(
        "Of video files: all windows of 16 frames take part, so that long videos count for more. For folders of images, such as "
        "Sky, take tats-frames. The train part. Inferred: one run, although the published numbers have a deviation."
    ),
)
_TATS_FRAMES = replace(
    _TATS,
    name="tats-frames",
    version=1,
    resize="crop, lanczos",
    antialias=True,
    long_side="floor",
    real_clips="one random a video",
    needed_frames="frames * stride + 1",
    source="TATS (Ge et al. 2022), its released code for folders of images, such as Sky",
    notes=(
        "One random clip of each folder that has more than 16 frames; its last 16 are never drawn. The train part. Inferred: one "
        "run, although the published numbers have a deviation."
    ),
)
_PVDM = replace(
    _STYLEGANV,
    name="pvdm-fvd2048",
    version=2,
    resize="crop, bilinear",
    antialias=False,
    crop="floor",
    quantise="truncate",
    source="PVDM (Yu et al. 2023), section 4.1: StyleGAN-V's protocol, 2048 clips, the train part; pixels from its data loader",
    notes=(
        "pvdm-fvd2048-128f is its FVD128. Its headline numbers use averaged weights and 400 steps a clip. Inferred: StyleGAN-V's "
        "extractor, order and covariance; the FVD that its code logs in training (i3d, 16 clips) is another one."
    ),
)
_PVDM_RFVD = replace(
    _PVDM,
    name="pvdm-rfvd",
    version=1,
    extractor="i3d-cover",
    order="shuffled",
    needed_frames="span",
    ddof=1,
    source="PVDM (Yu et al. 2023), the R-FVD of its released code: clips and their reconstructions",
    notes=(
        "Meant for reconstructions. Published for train and test apart, of 2048 clips, 196 of Sky's test part: give the split. "
        "Its loop runs over up to 513 batches, whatever their size."
    ),
)
_LATTE = replace(
    _STYLEGANV,
    name="latte",
    stride=3,
    resize="crop, lanczos",
    order="shuffled",
    source="Latte (Ma et al. 2024), its released tools: fvd2048_16f with 2048 clips, real frames 3 apart, generated 1",
    notes=(
        "Every third frame of real videos is measured against every frame of generated ones, as the tool has it. Another version "
        "of the tool takes up to 20480 clips under the same name: give num_real=20480 num_fake=20480. The tool draws generated "
        "clips at random too; here they are taken as they come. Frames were stored as JPEG of quality 75. Inferred: the train "
        "part."
    ),
)
_CDFVD = replace(
    _LVDM,
    name="cdfvd2048",
    version=2,
    metrics=("cdfvd",),
    extractor="videomae",
    antialias=True,
    long_side="ceil",
    crop="floor",
    runs=1,
    ddof=0,
    seed=42,
    source="Content-debiased FVD (Ge et al. 2024), its released package with VideoMAE-v2 and 2048 real clips",
    notes=(
        "Pixels as the package reads video files; folders of frames it crops first and resizes by Lanczos: give resize='crop, "
        "lanczos'. Of generated files it takes random clips in random order; here the first frames of the first "
        "videos. This protocol has two sources: seed 42 is the package's default, and 2048 real clips are as many as in its "
        "published statistics, whose seed is 0. The package's default is all real videos, and most statistics are published of "
        "all too. They are of UCF-101's train and test, else of the train part. 256 pixels are the default; statistics at 128 "
        "are published too."
    ),
)
_TGAN2_IS = EvalProtocol(
    name="tgan2-is",
    version=2,
    metrics=("is",),
    extractor="c3d",
    frames=16,
    num_fake=2048,
    quantise="none",
    runs=10,
    splits=1,
    eps=1e-20,
    source="TGANv2 (Saito et al. 2020), its released script for the Inception score: 10 sets of 2048 clips, no split",
    notes=(
        "The 10 sets share no clip, so 20480 generated ones are needed. Mean and standard deviation are over the sets. The "
        "floats of a model or of an array are scored, as in its script; stored videos are levels."
    ),
)
_STYLEGANV_IS = EvalProtocol(
    name="styleganv-is",
    version=1,
    metrics=("is",),
    extractor="c3d-torchscript",
    frames=16,
    num_fake=2048,
    quantise="round",
    splits=10,
    split_seed=42,
    source="StyleGAN-V (Skorokhodov et al. 2022), its released code: metric isv2048_ucf",
    notes="Splits of about 204 clips make the score lower than one of 2048 or 10,000 clips.",
)
_PVDM_IS = EvalProtocol(
    name="pvdm-is",
    version=1,
    metrics=("is",),
    extractor="c3d",
    frames=16,
    num_fake=10_000,
    splits=10,
    eps=1e-20,
    source="PVDM (Yu et al. 2023), section 4.1: 10,000 clips of 16 frames; network and eps of TGANv2",
    notes="Inferred: 10 splits, for what the published deviation is over is not told; the value without splits is told too.",
)

for _protocol in (
    _STYLEGANV,
    replace(_STYLEGANV, name="styleganv-fvd2048-128f", frames=128),
    replace(_STYLEGANV, name="styleganv-fvd2048-128f-sub8", stride=8, fake_stride=8),
    _LVDM,
    _PVDM,
    replace(_PVDM, name="pvdm-fvd2048-128f", version=1, frames=128),
    _PVDM_RFVD,
    _TATS,
    _TATS_FRAMES,
    _LATTE,
    _CDFVD,
    _TGAN2_IS,
    _STYLEGANV_IS,
    _PVDM_IS,
):
    PROTOCOLS.add(_protocol)


def get_protocol(name: str | EvalProtocol, /, **overrides: Any) -> EvalProtocol:
    """Return the protocol, or, if anything is changed in it, a custom one that says what it was made from.

    "custom" starts from CUSTOM_BASE. An override that equals what the protocol has changes nothing.
    """
    base = _base(name)
    open_to_change = [f.name for f in fields(EvalProtocol) if f.name not in ("name", "version", "source", "notes")]
    for key in overrides:
        if key == "split":
            raise UserError("the split belongs to the data and not to a protocol; give it where the real videos are given")
        if key not in open_to_change:
            raise UserError(f"{key} is nothing that can be changed in a protocol; {hint(key, open_to_change)}")
    if isinstance(overrides.get("metrics"), list):
        overrides = {**overrides, "metrics": tuple(overrides["metrics"])}
    changed = replace(base, **_without_effect(overrides), **overrides)
    if changed != base:
        return replace(changed, name=f"custom (from {base.name})")
    if name == "custom":
        raise UserError(
            f"a custom protocol changes something; say what is to differ from {base.name}, or take {base.name} itself"
        )
    return base


def _without_effect(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of those fields of pixels that another way of resizing does not read."""
    resize = str(overrides.get("resize", "bilinear, crop"))
    unread = (["long_side"] if not resize.endswith("crop") else []) + (["crop"] if resize == "none" else [])
    return {key: value for key, value in LATER.items() if key in unread and key not in overrides}


def _base(name: str | EvalProtocol) -> EvalProtocol:
    if isinstance(name, EvalProtocol):
        return name
    return PROTOCOLS[CUSTOM_BASE] if name == "custom" else PROTOCOLS.find(name, "custom")


def read_protocol(said: Mapping[str, Any]) -> EvalProtocol:
    """Return the protocol that `as_dict` described; under the name and version of a registered one it must be that one.

    Earlier versions called a protocol custom if only its split differed. It is the protocol itself.
    """
    read = EvalProtocol.from_dict(said)
    base = PROTOCOLS.get(read.based_on)
    if base is not None and not differences(base, plain := replace(read, name=base.name)):
        read = plain
    named = PROTOCOLS.get(read.name)
    if named is not None and named.version == read.version and (found := differences(named, read)):
        raise UserError(f"this calls itself {read.name} v{read.version} but has {'; '.join(found)}; it was changed by hand")
    return read


def changed_protocol(name: str | EvalProtocol, changes: Mapping[str, Any], features: str | None) -> EvalProtocol:
    """Return a protocol with some fields changed, and with other features: "random", or the name of an extractor."""
    if features is None:
        return get_protocol(name, **changes)
    if "extractor" in changes:
        raise UserError(f"features {features} and a changed extractor, {changes['extractor']}, say the same; give one")
    return get_protocol(name, **{**changes, "extractor": _random(name, changes) if features == "random" else features})


def _random(name: str | EvalProtocol, changes: Mapping[str, Any]) -> str:
    """Return the random extractor of the metrics that are to be measured."""
    metrics = changes.get("metrics") or _base(name).metrics
    return random_extractor(str(metrics[0] if isinstance(metrics, list | tuple) else metrics))


def random_extractor(name: str) -> str:
    """Return the extractor without weights that stands in for the usual one of a metric."""
    metric = METRICS.find(name)
    if metric.random is None:
        known = ", ".join(one.name for one in METRICS.values() if one.random)
        raise UserError(f"{metric.name} has no random features, which are those of {known}; take its own")
    return metric.random
