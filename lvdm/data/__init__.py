"""Videos in: which frames, reading, resizing, data sets, toy videos, cached latents. Imports lvdm.types only; no networks.

What stands here is loaded when it is first asked for: VideoData needs Lightning, which takes seconds, and toy videos do not.
"""

from importlib import import_module
from typing import Any

__all__ = ["CacheFacts", "Draw", "LatentClips", "LatentWriter", "VideoData", "VideoFolder"]

_HOMES = {
    "CacheFacts": "latent_index",
    "Draw": "draws",
    "LatentClips": "latents",
    "LatentWriter": "latent_writer",
    "VideoData": "datamodule",
    "VideoFolder": "datasets",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"lvdm.data has no {name}; it has {', '.join(__all__)} and its modules")
    return getattr(import_module(f"lvdm.data.{_HOMES[name]}"), name)
