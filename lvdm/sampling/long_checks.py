"""What a long video needs of its models: networks that take given latents, and windows that they were trained on."""

from __future__ import annotations

import logging

from lvdm.sampling.pipeline import VideoModel
from lvdm.sampling.trained import check_key_stride, check_pattern
from lvdm.sampling.windows import Plan
from lvdm.types import DenoiserInputs, UserError

logger = logging.getLogger(__name__)


def check_mask(predict: VideoModel, infill: VideoModel | None, made: Plan) -> None:
    """Refuse to give latents to a network that takes no mask."""
    if made.num_key_windows > 1 or made.start_latents:
        check_takes_given(predict)
    if infill is not None and made.num_gap_windows:
        check_takes_given(infill)


def check_takes_given(model: VideoModel) -> None:
    """Refuse a model whose network takes no given latents."""
    if not inputs_of(model).mask:
        raise UserError(
            f"{model.name} was trained without given frames (its network takes no mask), so it can neither continue nor infill; "
            "give a predict, infill or joint model"
        )


def check_trained(predict: VideoModel, infill: VideoModel | None, made: Plan) -> None:
    """Refuse windows that the models were never trained to sample, and warn of some that they were not trained on."""
    if infill is not None:
        check_key_stride(predict.trained, predict.name, made.key_stride)
        if made.num_gap_windows:
            check_pattern(infill.trained, infill.name, made.gap_window_at(0).given, stride=1)
    for index in range(min(2, made.num_key_windows)):  # the others are given what the second is
        check_pattern(predict.trained, predict.name, made.key_window(index).given, stride=made.key_stride)


def inputs_of(model: VideoModel) -> DenoiserInputs:
    """Return what the network of a model takes."""
    model.trained_settings()
    assert model.denoiser is not None
    return model.denoiser.inputs


def warn_of_plan(predict: VideoModel, made: Plan) -> None:
    """Warn of a plan that samples worse than it could."""
    stride = predict.trained_settings().key_stride
    if made.key_stride == 1 and stride > 1 and not inputs_of(predict).fps:
        words = "%s was trained on latents %d apart: without an infill model its video runs that much faster"
        logger.warning(words, predict.name, stride)
    if 0 < made.known_keys < made.overlap:
        logger.warning(
            "the start has %d of the %d keys that the first window can be given; a longer start is continued better",
            made.known_keys,
            made.overlap,
        )
