"""Latent video diffusion: train, generate long videos, measure. What stands here is loaded when it is first asked for."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Condition", "VideoModel", "load", "sample_long"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"lvdm has no {name}; it has {', '.join(__all__)} and its rooms")
    from lvdm import api

    return getattr(api, name)
