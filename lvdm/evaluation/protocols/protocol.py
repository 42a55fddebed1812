"""A protocol: all that a score depends on besides the two sets of videos, as one frozen record that checks itself.

Two scores can be compared when their protocols are equal in every field. Whoever measures reads each field here and nowhere
else. Fields that the metrics of a protocol do not use keep their default, so that none is set without effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from lvdm.evaluation.metrics.metric import METRICS
from lvdm.models.features.registry import Registry, hint
from lvdm.types import UserError

CHOICES = {
    "resize": ("none", "crop, bilinear", "bilinear, crop", "crop, lanczos", "lanczos, crop"),
    "long_side": ("floor", "ceil"),
    "crop": ("round", "floor"),
    "quantise": ("truncate", "round", "none"),
    "real_clips": ("one random a video", "first frames", "every window"),
    "fake_clips": ("one random a video", "first frames", "every window"),
    "order": ("sorted", "shuffled"),
    "needed_frames": ("span", "frames * stride", "frames * stride + 1"),
    "ddof": (0, 1),
}
LEAST = {"version": 1, "frames": 1, "stride": 1, "fake_stride": 1, "num_fake": 2, "runs": 1, "splits": 1, "eps": 0}
SEEDS = 2**32  # how many numpy's RandomState has
METRIC_FIELDS = ("splits", "split_seed", "eps", "ddof")  # what only some metrics depend on
REAL_FIELDS = ("stride", "real_clips", "order", "num_real")
TYPES: dict[Any, tuple[Any, str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
    int | None: ((int, type(None)), "a whole number or null"),
    tuple[str, ...]: (tuple, "a list of names"),
}
PROSE = ("source", "notes")  # what two equal protocols may differ in
LATER = {"long_side": "floor", "crop": "round"}  # fields that earlier descriptions lack, with what was measured then
EARLIER = ("split",)  # fields that only earlier descriptions have: the split belongs to the data


@dataclass(frozen=True)
class EvalProtocol:
    """All that a score depends on, besides the two sets of videos.

    Args:
        name: of the protocol; "custom (from NAME)" where something was changed.
        version: counted up whenever a field of a named protocol changes, for its numbers change with it.
        metrics: names in METRICS; one extractor serves them all.
        extractor: name of the frozen network that turns a clip into features.
        frames: of a clip, real or generated.
        num_fake: generated clips of a run.
        num_real: real clips of a run; 0 where no metric looks at real ones.
        stride: frames of a real video from one frame of a clip to the next.
        fake_stride: the same in a generated video.
        resolution: every frame is brought to this square size before the extractor sees it; None leaves frames as they are.
        resize: how that is done: the centre square is cut out first ("crop, ..."), or the short side is resized and the centre
            cut out afterwards ("..., crop"); a frame that has the size already is left alone. Lanczos is that of PIL.
        antialias: whether bilinear resizing averages over what it shrinks (Lanczos always does).
        long_side: whether the long side of a resized frame is rounded down ("floor", torchvision) or up ("ceil", VideoGPT).
        crop: whether half of the odd pixel outside a centre crop is rounded to even ("round", torchvision) or down ("floor").
        quantise: how floats become levels 0 to 255, those of a resized frame and those of a model: 127.5 (x + 1) is cut off
            ("truncate") or gets one half before ("round"). With "none" the floats of a model are measured as they are.
        real_clips: one clip a video with a uniform start, the first frames of each video, or every window of every video.
        fake_clips: the same for generated videos.
        order: in which real videos (or windows) are taken until there are num_real: by name, or shuffled. Generated ones are
            taken as they come.
        needed_frames: which videos are long enough: those that span a clip from its first to its last frame, those of frames *
            stride frames (StyleGAN-V), or real ones of one more (TATS on folders of images: the last start is never drawn).
        seed: of every draw of clips.
        runs: repetitions, with their mean and standard deviation: FVD and KVD draw other real clips in each and keep the
            generated ones; IS, which has no real ones, takes the next num_fake generated ones.
        ddof: covariances divide by N - ddof.
        splits: parts in which the Inception score is computed, with their mean and standard deviation.
        split_seed: shuffles the clips before they are split; None leaves their order.
        eps: added to each probability before its logarithm.
        source: where all this is published.
        notes: what is inferred, and what must be known before a number is compared with a published one.
    """

    name: str
    version: int
    metrics: tuple[str, ...]
    extractor: str
    frames: int
    num_fake: int
    num_real: int = 0
    stride: int = 1
    fake_stride: int = 1
    resolution: int | None = None
    resize: str = "none"
    antialias: bool = True
    long_side: str = "floor"
    crop: str = "round"
    quantise: str = "truncate"
    real_clips: str = "one random a video"
    fake_clips: str = "first frames"
    order: str = "sorted"
    needed_frames: str = "span"
    seed: int = 0
    runs: int = 1
    ddof: int = 0
    splits: int = 1
    split_seed: int | None = None
    eps: float = 0.0
    source: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(f"{key} is {getattr(self, key)!r}; {hint(str(getattr(self, key)), map(str, choices))}")
        for key, least in LEAST.items():
            if getattr(self, key) < least:
                raise UserError(f"{key} is {getattr(self, key)}, expected {least} or more")
        for key in ("seed", "split_seed"):
            if not 0 <= (getattr(self, key) or 0) < SEEDS:
                raise UserError(f"{key} is {getattr(self, key)}, expected 0 to {SEEDS - 1}")
        _check_metrics(self)
        _check_pixels(self)
        _check_effects(self)

    @property
    def uses_real(self) -> bool:
        """Return whether any metric looks at real clips."""
        return any(METRICS[metric].kind == "distance" for metric in self.metrics)

    @property
    def is_drawn(self) -> bool:
        """Return whether clips are drawn at random."""
        real = self.uses_real and (self.order == "shuffled" or self.real_clips == "one random a video")
        return real or self.fake_clips == "one random a video"

    @property
    def based_on(self) -> str:
        """Return the name of the protocol that this one is or was made from."""
        return self.name.removeprefix("custom (from ").removesuffix(")")

    def label(self) -> str:
        """Return a line for a table: name, version, frames, clips and runs."""
        counts = f"{self.num_real} real, {self.num_fake} generated" if self.uses_real else f"{self.num_fake} generated"
        runs = f", {self.runs} runs" if self.runs > 1 else ""
        return f"{self.name} v{self.version}: {self.frames} frames, {counts}{runs}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which `from_dict` reads."""
        return asdict(self) | {"metrics": list(self.metrics)}

    @staticmethod
    def from_dict(said: Mapping[str, Any]) -> EvalProtocol:
        """Return the protocol that `as_dict` described with all its fields, in this version of lvdm or an earlier one."""
        said = {**LATER, **{key: value for key, value in said.items() if key not in EARLIER}}
        names = [f.name for f in fields(EvalProtocol)]
        if strange := [key for key in said if key not in names]:
            raise UserError(f"{strange[0]} is no field of a protocol; {hint(strange[0], names)}")
        if missing := [key for key in names if key not in said]:
            raise UserError(f"the description of a protocol lacks {', '.join(missing)}; take a whole one, as results hold it")
        metrics = said["metrics"]
        return EvalProtocol(**{**said, "metrics": tuple(metrics) if isinstance(metrics, (list, tuple)) else metrics})


def differences(a: EvalProtocol, b: EvalProtocol) -> list[str]:
    """Return every field in which they differ, with both values, except the prose; nothing if they measure the same."""
    names = [f.name for f in fields(EvalProtocol) if f.name not in PROSE]
    return [f"{key} {getattr(a, key)!r} and {getattr(b, key)!r}" for key in names if getattr(a, key) != getattr(b, key)]


def _check_types(protocol: EvalProtocol) -> None:
    for key, kind in get_type_hints(EvalProtocol).items():
        value, (accepted, words) = getattr(protocol, key), TYPES[kind]
        is_kind = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
        if not is_kind or (isinstance(value, tuple) and not all(isinstance(part, str) for part in value)):
            raise UserError(f"{key} is {value!r}, expected {words}")


def _check_metrics(protocol: EvalProtocol) -> None:
    if not protocol.metrics or len(set(protocol.metrics)) < len(protocol.metrics):
        raise UserError(f"metrics is {list(protocol.metrics)}; give one or more of {', '.join(METRICS)}, each once")
    for name in protocol.metrics:
        usable = METRICS.find(name).usable_extractors()
        if protocol.extractor not in usable and "." not in protocol.extractor:  # a user's own is the user's choice
            raise UserError(f"{name} cannot use the extractor {protocol.extractor!r}; {hint(protocol.extractor, usable)}")


def _check_pixels(protocol: EvalProtocol) -> None:
    if (protocol.resolution is None) != (protocol.resize == "none"):
        what = f"resolution is {protocol.resolution} and resize is {protocol.resize!r}"
        raise UserError(f"{what}; give both, or resolution null and resize none")
    if protocol.resolution is not None and protocol.resolution < 1:
        raise UserError(f"resolution is {protocol.resolution}, expected the side of a square in pixels")
    if protocol.quantise == "none" and (protocol.uses_real or protocol.resolution is not None):
        raise UserError("quantise none keeps floats, but real clips and resized frames are levels; give truncate or round")
    if protocol.long_side != "floor" and not protocol.resize.endswith("crop"):
        raise UserError(f"long_side {protocol.long_side!r} has no effect on resize {protocol.resize!r}; leave it at 'floor'")
    if protocol.crop != "round" and protocol.resize == "none":
        raise UserError(f"crop {protocol.crop!r} has no effect without a resolution; leave it at 'round'")
    if not protocol.antialias and "bilinear" not in protocol.resize:
        raise UserError(f"antialias false has no effect on resize {protocol.resize!r}; leave it out or resize by bilinear")


def _check_effects(protocol: EvalProtocol) -> None:
    """Refuse a field that no metric of the protocol reads and that is not at its default."""
    read = {field for metric in protocol.metrics for field in METRICS[metric].fields}
    unread = tuple(field for field in METRIC_FIELDS if field not in read)
    unread += () if protocol.uses_real else REAL_FIELDS
    unread += () if protocol.is_drawn or "seed" in read else ("seed",)
    default = {f.name: f.default for f in fields(EvalProtocol)}
    for key in unread:
        if getattr(protocol, key) != default[key]:
            what = f"{key} {getattr(protocol, key)!r} has no effect on {' and '.join(protocol.metrics)} of these clips"
            raise UserError(f"{what}; leave it at {default[key]!r}")
    if protocol.uses_real and protocol.num_real < 2:
        raise UserError(f"num_real is {protocol.num_real}; {' and '.join(protocol.metrics)} need 2 real clips or more")
    is_same_in_each_run = protocol.uses_real and protocol.order == "sorted" and protocol.real_clips != "one random a video"
    if protocol.runs > 1 and is_same_in_each_run:
        raise UserError(f"{protocol.runs} runs would take the same real clips each; shuffle their order or ask for 1 run")


PROTOCOLS: Registry[EvalProtocol] = Registry("protocol")
