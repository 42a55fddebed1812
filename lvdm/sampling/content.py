"""What videos show: a class or a text, and the pass without it that guidance compares with (Ho & Salimans 2022).

Letters: v videos, l tokens, d width of the text features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lvdm.rules import Rule, integer, require
from lvdm.sampling.trained import Trained, warn_once
from lvdm.seeding import numpy_generator
from lvdm.types import ABSENT, Condition, UserError

LABEL = Rule("a class, which is an integer", integer(-(2**63), 2**63 - 1).holds)
LABELS = 3  # the stage of the stream that draws classes; windows have 0 to 2


@dataclass(frozen=True)
class Content:
    """The classes and texts of videos.

    Args:
        label: (v,) classes. context: (v, l, d) text features.
        empty: (1, l, d), the features of the empty prompt, if guidance needs them.
        guides: guidance is against the pass without class and text.
    """

    label: Tensor | None = None
    context: Tensor | None = None
    empty: Tensor | None = None
    guides: bool = False

    def given_to(self, cond: Condition, rows: int) -> Condition:
        """Return the condition with what each row shows; the rows are the videos in order, once or several times."""
        label = None if self.label is None else self.label.repeat(rows // len(self.label))
        context = None if self.context is None else self.context.repeat(rows // len(self.context), 1, 1)
        return replace(cond, label=label, context=context)

    def left_out(self, cond: Condition) -> Condition:
        """Return the condition with no class and the empty text, for the unconditional pass; given frames stay."""
        label = None if cond.label is None else torch.full_like(cond.label, ABSENT)
        context = cond.context
        if context is not None and self.empty is not None:
            context = self.empty.to(context).expand(len(context), -1, -1)
        return replace(cond, label=label, context=context)


def choose_labels(
    label: int | Sequence[int] | Tensor | None,
    videos: Sequence[int],
    *,
    seed: int,
    classes: int,
    trained: Trained | None,
    name: str,
) -> list[int] | None:
    """Return the class of each video of a seed, or None for videos without class.

    Without a request, a model with a null class samples without class. One without gets classes that it was trained on, each as
    likely as any other, by seed and video.
    """
    if label is not None:
        return _checked(_as_list(label), len(videos), classes, trained, name)
    if not classes:
        return None
    if trained is None or not trained.labels:
        warn_once(f"{name} takes a class and none is given: it samples without one, which it may never have learned")
        return None
    if trained.label_dropout > 0:
        warn_once(f"{name} takes a class and none is given: its videos are unconditional")
        return None
    count = len(trained.labels)
    warn_once(f"{name} was never trained without a class and none is given: each video gets one of its {count}, by the seed")
    return [trained.labels[int(numpy_generator(seed, (video, LABELS)).integers(count))] for video in videos]


def _as_list(label: int | Sequence[int] | Tensor) -> list[int]:
    values = label.reshape(-1).tolist() if isinstance(label, Tensor | np.ndarray) else label
    labels = list(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else [values]
    for each in labels:
        require(LABEL, label=each)
    return [int(each) for each in labels]


def _checked(labels: list[int], num: int, classes: int, trained: Trained | None, name: str) -> list[int]:
    if len(labels) not in (1, num):
        raise UserError(f"{len(labels)} labels came for {num} videos; give one, or one for each")
    wrong = next((each for each in labels if not 0 <= each < classes), None)
    if wrong is not None and not classes:
        raise UserError(f"the label is {wrong}, and {name} knows no classes; leave label out")
    if wrong is not None:
        raise UserError(f"the label is {wrong}, and {name} knows classes 0 to {classes - 1}; give one, or leave label out")
    if trained is not None and trained.labels is not None:
        unseen = next((each for each in labels if each not in trained.labels), None)
        if unseen is not None:
            raise UserError(f"the label is {unseen}, and {name} saw no video of this class in training; give another")
    return labels * (num // len(labels))


def has_null_class(trained: Trained | None) -> bool:
    """Return whether a model may be asked for a pass without class; files of earlier versions do not say that they cannot."""
    return trained is None or trained.label_dropout > 0


def check_texts(num: int, context: Tensor) -> Tensor:
    """Return text features (n, l, d), one for each video."""
    if context.ndim != 3 or len(context) not in (1, num):
        raise UserError(f"the context has shape {tuple(context.shape)}; {num} videos need (1, l, d) or ({num}, l, d)")
    return context.expand(num, -1, -1)
