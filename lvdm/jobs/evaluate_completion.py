"""Measure from Python how well a model continues or infills real clips. `scripts/eval.py completion` calls this."""

from __future__ import annotations

from collections.abc import Sequence

from lvdm.evaluation.completion import Completion, measure_completion
from lvdm.evaluation.given_latents import Kind, choose_given
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.round_trip import NO_FEATURES, reconstruction_protocol
from lvdm.evaluation.sources.model import Sampling
from lvdm.evaluation.sources.sampled import origin_of
from lvdm.jobs.evaluate import USUAL, EvalSettings, Model, Videos
from lvdm.jobs.evaluate_reconstruction import PROTOCOL, of_held_out
from lvdm.models.features.perceptual import lpips_distance
from lvdm.processes import process_group
from lvdm.types import UserError, clip_span


def evaluate_completion(
    model: Model,
    real: Videos,
    kind: Kind = "continuation",
    *,
    given: int | None = None,
    samples: int = 1,
    num: int | None = None,
    features: str | None = None,
    lpips: Sequence[str] = (),
    sampling: Sampling | None = None,
    settings: EvalSettings = USUAL,
) -> Result:
    """Return how near a model's completions of real clips are to the truth: scores of the new frames alone.

    Clips are those of the held-out split, as long as the model's window (of keys and their gaps, if it continues
    latents further apart) and at its own size; `settings.changes` may change it.

    Args:
        kind: "continuation" is given the first latents of a clip, "infilling" those of both ends.
        given: latents that are given, at each end; None takes the fewest that the model was trained with, else 1.
        samples: of each clip; with several, `psnr_clip_best` and so on are those of each clip's best sample.
        num: at most so many clips; None takes all there are, at most 2,048.
        features: FVD of the new frames by this extractor, or "random"; None leaves FVD out.
        lpips: trunks of LPIPS, "vgg" and "alex".
        sampling: how the model samples.
    """
    if kind not in ("continuation", "infilling"):
        raise UserError(f"kind is {kind!r}; give continuation or infilling")
    if samples < 1:
        raise UserError(f"samples is {samples}; give 1 or more of each clip")
    with process_group():
        loaded, path = settings.open_model(model)
        chosen_given = choose_given(loaded, kind, given)
        window = clip_span(loaded.trained_settings().latent_shape[1], chosen_given.stride)
        settings = of_held_out(settings, loaded, frames=loaded.codec.frames_of(window))
        chosen = reconstruction_protocol(settings.protocol(PROTOCOL, features))
        source = settings.open_real(real, chosen)
        assert source is not None, "every distance looks at real clips"
        nets = {f"lpips_{net}": lpips_distance(net, without="leave LPIPS out").to(loaded.device) for net in lpips}
        completion = Completion(kind, origin_of(loaded, None, path), loaded, sampling or Sampling(), chosen_given, samples, nets)
        network = NO_FEATURES if features is None else settings.extractor(chosen)
        return measure_completion(
            chosen, source, completion, network, settings.scores(chosen), settings.measuring(num, allow_fewer=True)
        )
