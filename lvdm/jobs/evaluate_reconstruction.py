"""Measure from Python how well a model's codec keeps real clips. `scripts/eval.py reconstruction` calls this."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.evaluation.results.provenance import short_name
from lvdm.evaluation.results.result import Result
from lvdm.evaluation.round_trip import NO_FEATURES, RoundTrip, Show, measure_reconstruction, reconstruction_protocol
from lvdm.jobs.evaluate import USUAL, EvalSettings, Model, Videos
from lvdm.models.features.perceptual import lpips_distance
from lvdm.models.features.weights import sha256_of
from lvdm.processes import process_group
from lvdm.sampling.pipeline import VideoModel
from lvdm.types import UserError

logger = logging.getLogger(__name__)

PROTOCOL = "pvdm-fvd2048"  # what the default changes: the held-out split, at the model's own size
Network = TypeVar("Network")


def evaluate_reconstruction(
    model: Model,
    real: Videos,
    protocol: str | EvalProtocol | None = None,
    *,
    num: int | None = None,
    allow_fewer: bool = False,
    features: str | None = None,
    lpips: Sequence[str] | None = None,
    show: int = 0,
    show_at: Path = Path("reconstruction"),
    settings: EvalSettings = USUAL,
) -> Result:
    """Return how well a model's codec keeps real clips: PSNR, SSIM, LPIPS and the protocol's distances.

    Args:
        model: an autoencoder, or a diffusion model with one.
        protocol: None measures all clips of the held-out split, at most 2,048, at the model's own size.
        num, allow_fewer: as `evaluate` has them.
        features: as `evaluate` has it. With neither `protocol` nor `features`, R-FVD is left out if its network is missing.
        lpips: trunks of LPIPS, "vgg" and "alex". None takes "vgg", and leaves LPIPS out if its network is missing.
        show: write so many clips above their reconstructions, as SHOW_AT.clipN.mp4.
    """
    with process_group():
        loaded, path = settings.open_model(model)
        if protocol is None:
            settings, allow_fewer = of_held_out(settings, loaded), True
        chosen = reconstruction_protocol(settings.protocol(PROTOCOL if protocol is None else protocol, features))
        options = settings.scores(chosen)
        source = settings.open_real(real, chosen)
        assert source is not None, "every distance looks at real clips"
        name, sha256 = (loaded.name, loaded.codec.fingerprint()) if path is None else (short_name(path), sha256_of(path))
        shown = Show(show_at, show, (loaded.settings.fps if loaded.settings else None) or Show.fps)
        trip = RoundTrip(name, sha256, loaded.codec, loaded.device, _perceptual(lpips, loaded), shown)
        is_left_to_us = protocol is None and features is None and not {"extractor", "metrics"} & settings.changes.keys()
        network = _unless_missing(lambda: settings.extractor(chosen), "R-FVD") if is_left_to_us else settings.extractor(chosen)
        return measure_reconstruction(chosen, source, trip, network or NO_FEATURES, options, settings.measuring(num, allow_fewer))


def of_held_out(settings: EvalSettings, model: VideoModel, **changes: Any) -> EvalSettings:
    """Return settings for the held-out split at the size of the model's training, where the given ones say nothing else."""
    side = _own_side(model)
    own = changes if side is None else {"resolution": side, **changes}
    return replace(settings, default_split="test", changes={**own, **settings.changes})


def _own_side(model: VideoModel) -> int | None:
    """Return the shorter side of training videos, in pixels: of the latents, else of the data in the config."""
    if model.settings is not None:
        return min(model.settings.latent_shape[2:]) * model.codec.spatial_factor
    node: Any = model.description
    for key in ("config", "data", "params", "train", "params", "size"):
        node = node.get(key) if isinstance(node, Mapping) else None
    sides = [node] if isinstance(node, int) else node
    is_size = isinstance(sides, Sequence) and len(sides) > 0 and all(type(side) is int and side > 0 for side in sides)
    return min(sides) if is_size else None


def _perceptual(lpips: Sequence[str] | None, model: VideoModel) -> dict[str, nn.Module]:
    def distance(net: str) -> nn.Module:
        return lpips_distance(net, without="leave LPIPS out").to(model.device)

    if lpips is not None:
        return {f"lpips_{net}": distance(net) for net in lpips}
    found = _unless_missing(lambda: distance("vgg"), "LPIPS")
    return {} if found is None else {"lpips_vgg": found}


def _unless_missing(make: Callable[[], Network], score: str) -> Network | None:
    """Return a network, or None, with a warning, if it cannot be had."""
    try:
        return make()
    except UserError as error:
        logger.warning("%s is not measured: %s", score, error)
        return None
