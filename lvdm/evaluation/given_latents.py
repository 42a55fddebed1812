"""How many latents a model is given when it completes a clip: as many as it was trained with."""

from __future__ import annotations

from typing import Literal

from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

Kind = Literal["continuation", "infilling"]


def both_ends(given: int, latents: int) -> tuple[int, ...]:
    """Return the slots at both ends of a window."""
    return (*range(given), *range(latents - given, latents))


def choose_given(model: VideoModel, kind: Kind, given: int | None) -> int:
    """Return how many latents are given, by default the fewest that the model was trained with; 1 if that is not recorded.

    A model that continues only latents further apart is refused, because the latents of a clip are consecutive.
    """
    settings, trained = model.trained_settings(), model.trained
    if trained is None or not trained.tasks:
        return 1 if given is None else given
    patterns, window = trained.patterns(1), settings.latent_shape[1]
    if kind == "infilling":
        learned = [n for n in range(1, window // 2 + 1) if patterns is not None and both_ends(n, window) in patterns]
        return given if given is not None else min(learned, default=1)
    learned = sorted(len(each) for each in patterns or () if each and each == tuple(range(len(each))))
    apart = [stride for stride in trained.strides if stride > 1]
    if patterns is not None and not learned and apart:
        how = f"was trained on latents {' or '.join(map(str, apart))} apart"
        raise UserError(f"{model.name} {how}; completion measures consecutive latents: give a model that continues those")
    if learned and given is not None and given not in learned:
        counts = " or ".join(map(str, learned))
        raise UserError(f"given is {given}, and {model.name} was trained to continue {counts} latents; give as many")
    return given if given is not None else min(learned, default=1)
