"""Latent video diffusion: train, generate long videos, measure. Everything in `__all__` is loaded when it is first used."""
# ruff: noqa: F403, F405 - api.py holds the names of __all__

from typing import TYPE_CHECKING, Any

from lvdm.version import __version__

if TYPE_CHECKING:
    from lvdm.api import *

__all__ = [
    "Codec",
    "Condition",
    "Converted",
    "DenoiserInputs",
    "EncodeReport",
    "EncodeSettings",
    "EvalSettings",
    "LongSamples",
    "Output",
    "ReadingOptions",
    "Result",
    "Run",
    "Samples",
    "Sampling",
    "UserError",
    "VideoModel",
    "__version__",
    "convert",
    "encode",
    "evaluate",
    "evaluate_completion",
    "evaluate_long",
    "evaluate_reconstruction",
    "evaluate_text",
    "features",
    "fvd",
    "load",
    "read_video",
    "sample",
    "sample_long",
    "save",
    "save_video",
    "statistics",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"lvdm has no {name}; it has {', '.join(__all__)} and its rooms")
    from lvdm import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
