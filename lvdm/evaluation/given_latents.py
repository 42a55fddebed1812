"""How many latents a model is given when it completes a clip: as many as it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.trained import Pattern, Trained
from lvdm.types import UserError, clip_span

Kind = Literal["continuation", "infilling"]


@dataclass(frozen=True)
class Given:
    """The given latents of a completion: so many, so far apart. A model of keys further apart fills the gaps as it learned to."""

    count: int
    stride: int = 1

    @property
    def span(self) -> int:
        """Return how many latents there are from the first to the last given one."""
        return clip_span(self.count, self.stride)


def both_ends(given: int, latents: int) -> tuple[int, ...]:
    """Return the slots at both ends of a window."""
    return (*range(given), *range(latents - given, latents))


def choose_given(model: VideoModel, kind: Kind, given: int | None) -> Given:
    """Return what is given, by default the fewest latents that the model was trained with; 1 if that is not recorded.

    A joint model that continues only latents further apart gets such ones, and fills the gaps between them itself. A
    predict model of those is refused, because the latents of a clip are consecutive.
    """
    settings, trained = model.trained_settings(), model.trained
    if trained is None or not trained.tasks:
        return Given(1 if given is None else given)
    patterns, window = trained.patterns(1), settings.latent_shape[1]
    if kind == "infilling":
        learned = [n for n in range(1, window // 2 + 1) if patterns is not None and both_ends(n, window) in patterns]
        return Given(given if given is not None else min(learned, default=1))
    apart = [each for each in trained.strides if each > 1 and _continued(trained, each)]
    learned, stride = _continued(trained, 1), 1
    if patterns is not None and not learned and apart:
        if not any(pattern != tuple(range(len(pattern))) for pattern in patterns):
            how = f"was trained on latents {' or '.join(map(str, apart))} apart"
            raise UserError(
                f"{model.name} {how} and fills no gaps; give a joint model, or one that continues consecutive latents"
            )
        learned, stride = _continued(trained, apart[0]), apart[0]
    if learned and given is not None and given not in learned:
        counts = " or ".join(map(str, learned))
        raise UserError(f"given is {given}, and {model.name} was trained to continue {counts} latents; give as many")
    return Given(given if given is not None else min(learned, default=1), stride)


def _continued(trained: Trained, stride: int) -> list[int]:
    """Return how many latents a model was trained to continue, at this distance."""
    patterns: set[Pattern] = trained.patterns(stride) or set()
    return sorted(len(each) for each in patterns if each and each == tuple(range(len(each))))
