"""What a model was trained to do, as its file records it, and which sampling that rules out (LVDM sections 3.2 to 3.4).

A pattern is the slots of a window whose latents are given, such as (0, 1, 2); () gives none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lvdm.rules import MAPPING, integer, listed, number, optional, require
from lvdm.types import UserError

logger = logging.getLogger(__name__)

MOST_PATTERNS, MOST_LABELS = 64, 10_000  # of a file: more are recorded as null
Pattern = tuple[int, ...]
PATTERNS = optional(listed(listed(integer(0, 2**16), 0, 2**16), 1, MOST_PATTERNS))


@dataclass(frozen=True)
class TrainedTask:
    """A task that was trained: latents so far apart, with these patterns given."""

    stride: int
    given: Sequence[Sequence[int]] | None  # None: too many patterns to list

    def __post_init__(self) -> None:
        require(integer(1, 2**16), stride=self.stride)
        require(PATTERNS, given=self.given)


@dataclass(frozen=True)
class Trained:
    """What a model was trained to do.

    Args:
        tasks: by name.
        fps: lowest and highest frames per second of the videos; None if unknown.
        max_level: given latents were noised to levels below it.
        labels: classes of the videos; None if unknown, empty for a network without classes.
        label_dropout: how often the class was left out, which trains the null class.
        empty_caption: how often the caption was replaced by the empty one.
    """

    tasks: Mapping[str, TrainedTask] = field(default_factory=dict)
    fps: Sequence[float] | None = None
    max_level: int | None = None
    labels: Sequence[int] | None = None
    label_dropout: float = 0.0
    empty_caption: float = 0.0

    def __post_init__(self) -> None:
        require(MAPPING, tasks=self.tasks)
        require(optional(listed(number(0), 2, 2)), fps=self.fps)
        if self.fps is not None and self.fps[0] > self.fps[1]:
            raise UserError(f"fps is {list(self.fps)}, expected the lowest and then the highest")
        require(optional(integer(1)), max_level=self.max_level)
        require(optional(listed(integer(0), 0, MOST_LABELS)), labels=self.labels)
        require(number(0, 1), label_dropout=self.label_dropout, empty_caption=self.empty_caption)

    @staticmethod
    def read(stored: Mapping[str, Any]) -> Trained:
        """Return the record in a model file; what other versions of lvdm say there too is not read."""
        require(MAPPING, tasks=(tasks := stored.get("tasks", {})))
        require(MAPPING, **tasks)
        tasks = {name: TrainedTask(task.get("stride"), task.get("given")) for name, task in tasks.items()}
        known = {"fps", "max_level", "labels", "label_dropout", "empty_caption"} & stored.keys()
        return Trained(tasks, **{name: stored[name] for name in known})

    def check_labels(self, classes: int) -> None:
        """Refuse classes that the network does not have."""
        if self.labels and max(self.labels) >= classes:
            raise UserError(f"labels has {max(self.labels)}, and the network knows {classes} classes; the file is damaged")

    @property
    def strides(self) -> list[int]:
        return sorted({task.stride for task in self.tasks.values()})

    def patterns(self, stride: int | None = None) -> set[Pattern] | None:
        """Return the patterns that were trained, at this stride or at any; None if some task has too many to list."""
        tasks = [task for task in self.tasks.values() if stride in (None, task.stride)]
        if any(task.given is None for task in tasks):
            return None
        return {tuple(pattern) for task in tasks for pattern in task.given or ()}

    def strides_with(self, pattern: Pattern) -> list[int]:
        """Return the strides at which this pattern was trained."""
        known = {stride: self.patterns(stride) for stride in self.strides}
        return [stride for stride, patterns in known.items() if patterns is None or pattern in patterns]


def short_stride(trained: Trained | None, name: str) -> int:
    """Return how far apart the latents of a short clip are: those of the task without given latents, the closest of several."""
    if trained is None or not trained.tasks:
        return 1
    strides = trained.strides_with(())
    if not strides:
        warn_once(f"{name} was never trained without given latents, so its short clips will be poor")
    return (strides or trained.strides)[0]


def check_key_stride(trained: Trained | None, name: str, stride: int) -> None:
    """Refuse keys, between which a model fills the gaps, at a distance that the model never saw."""
    if trained is None or not trained.tasks or stride in trained.strides:
        return
    apart = [each for each in trained.strides if each > 1]  # with neighbours as keys there is no gap to fill
    how = f"give a key_stride of {_any_of(apart)}" if apart else "leave the infill model out"
    raise UserError(f"{name} was never trained on latents {stride} apart; {how}")


def check_pattern(trained: Trained | None, name: str, pattern: Pattern, *, stride: int) -> None:
    """Refuse given latents with which a model was never trained; warn if it was, but not at this stride."""
    everywhere = None if trained is None or not trained.tasks else trained.patterns()
    if trained is None or everywhere is None or stride in (strides := trained.strides_with(pattern)):
        return
    if strides:
        warn_once(
            f"{name} was trained on latents {_any_of(strides)} apart, not {stride}: "
            "expect poor videos; an infill model, such as a joint model itself, allows the trained distance"
        )
    elif not pattern:
        warn_once(f"{name} was never trained without given latents: the beginning will be poor; give a start")
    elif pattern == tuple(range(len(pattern))):
        _refuse_continuing(everywhere, name, len(pattern))
    elif not any(_is_infill(known) for known in everywhere):
        raise UserError(f"{name} was never trained to fill gaps between given latents; give an infill or joint model")
    else:
        warn_once(f"{name} was never trained to fill gaps between the given latents {list(pattern)}: expect poor videos")


def check_level_trained(trained: Trained | None, name: str, level: int) -> None:
    """Warn of a noise level of given latents that was not trained."""
    if trained is not None and trained.max_level is not None and level >= trained.max_level:
        warn_once(f"{name} was trained with given latents at levels below {trained.max_level}, and this is {level}")


def check_rate(trained: Trained | None, name: str, fps: float | None) -> None:
    """Warn of frames per second that no training video had."""
    if trained is None or trained.fps is None or fps is None:
        return
    low, high = trained.fps
    if not 0.99 * low <= fps <= 1.01 * high:
        warn_once(
            f"{name} was trained on videos of {low:g} to {high:g} frames per second, and it is sampled at {fps:g}; "
            "sampling.fps of the config of training says that, and in Python settings.fps of the model"
        )


@lru_cache(maxsize=256)
def warn_once(words: str) -> None:
    """Log a warning, once in a process: a thousand batches share one reason."""
    logger.warning("%s", words)


def _refuse_continuing(everywhere: set[Pattern], name: str, count: int) -> None:
    counts = sorted({len(known) for known in everywhere if known and not _is_infill(known)})
    if not counts:
        raise UserError(f"{name} was never trained to continue given latents; give a predict or joint model")
    raise UserError(
        f"{name} was trained to continue {_any_of(counts)} given latents, not {count}; choose the overlap, and a start that is "
        "long enough, by that"
    )


def _is_infill(pattern: Pattern) -> bool:
    """Return whether a latent before a given one is to be made."""
    return pattern != tuple(range(len(pattern)))


def _any_of(numbers: Sequence[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last
