"""Videos in: layouts of data sets, which frames, reading, resizing, toys, cached latents. Imports lvdm.types only; no networks.

What stands here is loaded when it is first asked for: VideoData needs Lightning, which takes seconds, and toy videos do not.
"""

from importlib import import_module
from typing import Any

__all__ = [
    *("AnyVideos", "CacheFacts", "Draw", "FolderSplit", "FractionSplit", "LatentClips", "LatentWriter", "ListSplit"),
    *("SkyTimelapse", "Taichi", "TarShards", "UCF101", "VideoData", "VideoFolder", "VideoTable"),
]

_HOMES = {
    "AnyVideos": "layouts",
    "CacheFacts": "latent_index",
    "Draw": "draws",
    "FolderSplit": "splits",
    "FractionSplit": "splits",
    "LatentClips": "latents",
    "LatentWriter": "latent_writer",
    "ListSplit": "splits",
    "SkyTimelapse": "layouts",
    "Taichi": "layouts",
    "TarShards": "shards",
    "UCF101": "ucf101",
    "VideoData": "datamodule",
    "VideoFolder": "datasets",
    "VideoTable": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"lvdm.data has no {name}; it has {', '.join(__all__)} and its modules")
    return getattr(import_module(f"lvdm.data.{_HOMES[name]}"), name)
