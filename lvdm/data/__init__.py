"""Data sets: layouts, probing, reading, clips, loaders and cached latents. Imports the shared modules only; no networks.

Names are imported at first use, because VideoData needs Lightning, which takes seconds, and other modules do not.
"""

from importlib import import_module
from typing import Any

BUILDABLE = (  # classes that a config may name
    "datamodule.VideoData",
    "latents.dataset.LatentClips",
    "layouts.folders.AnyVideos",
    "layouts.folders.SkyTimelapse",
    "layouts.folders.Taichi",
    "layouts.kinetics.Kinetics",
    "layouts.shards.TarShards",
    "layouts.splits.FolderSplit",
    "layouts.splits.FractionSplit",
    "layouts.splits.ListSplit",
    "layouts.tables.VideoTable",
    "layouts.ucf101.UCF101",
    "reading.options.ReadingOptions",
    "video_folder.VideoFolder",
)
_HOMES = {path.rpartition(".")[2]: path.rpartition(".")[0] for path in BUILDABLE}
_HOMES |= {"CacheFacts": "latents.format", "Draw": "loading", "LatentWriter": "latents.writer"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"lvdm.data has no {name}; it has {', '.join(__all__)} and its modules")
    return getattr(import_module(f"lvdm.data.{_HOMES[name]}"), name)
