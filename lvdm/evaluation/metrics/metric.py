"""What a metric is: one record. The registry holds those that ship and those of a user's package.

Letters: n clips, d features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lvdm.models.features.extractors import EXTRACTORS
from lvdm.models.features.registry import Registry
from lvdm.types import UserError

SPLIT_FIELDS = ("splits", "split_seed")  # fields of a protocol that every score of generated clips depends on


@dataclass(frozen=True)
class Metric:
    """A metric of clips.

    Args:
        name: what protocols and results call it: lower-case letters and digits, since results append words such as "_n512".
        what: one sentence on what it measures.
        kind: "distance" is `compute(real, fake)` of features (n, d) of both sets, "score" is `compute(fake)`.
        compute: a pure function to one number; the protocol's fields in `reads` are its keywords.
        random: the extractor without weights that stands in for the usual one; None if there is none.
        extractors: extractors that it takes, besides those whose own records name this metric.
        reads: fields of the protocol that are passed to `compute`.
        is_comparable: whether its numbers can be compared with those of others who use the same extractor.
        at_infinity: the distance extrapolated to infinitely many clips, with the protocol's `seed` as one more keyword.
        takes_moments: whether the real set may be `Moments`, so that saved statistics are enough.
        of_frames: whether it is of features of frames (n, t, d), every frame a sample.
        needs_covariance: whether it is biased if there are fewer clips than features.
    """

    name: str
    what: str
    kind: Literal["distance", "score"]
    compute: Callable[..., float]
    random: str | None = None
    extractors: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    is_comparable: bool = True
    at_infinity: Callable[..., float] | None = None
    takes_moments: bool = False
    of_frames: bool = False
    needs_covariance: bool = False

    def __post_init__(self) -> None:
        if not (self.name.isalnum() and self.name.islower()):
            raise UserError(
                f"a metric is called {self.name!r}; expected lower-case letters and digits alone, such as 'mymetric2'"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the fields of a protocol that this metric depends on, besides those of clips and pixels."""
        return self.reads + (SPLIT_FIELDS if self.kind == "score" else ())

    def under(self, protocol: Any) -> Callable[..., float]:
        """Return `compute` with the fields of a protocol that it reads; what it returns is checked to be one finite number."""
        fields = {field: getattr(protocol, field) for field in self.reads}
        return lambda *sets: self._checked(self.compute(*sets, **fields))

    def _checked(self, value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):  # the last is torch's, of a tensor with several numbers
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"the metric {self.name} returned {value!r:.80}; expected one finite number: mend its `compute`")
        return number

    def usable_extractors(self) -> list[str]:
        """Return the names of all extractors that this metric takes."""
        return [name for name, record in EXTRACTORS.items() if name in self.extractors or self.name in record.metrics]


METRICS: Registry[Metric] = Registry("metric")
