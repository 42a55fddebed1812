"""Videos in: which frames, reading, resizing, data sets, toy videos, cached latents. Imports lvdm.types only; no networks."""

from lvdm.data.datamodule import VideoData
from lvdm.data.datasets import VideoFolder
from lvdm.data.draws import Draw
from lvdm.data.latent_writer import LatentWriter
from lvdm.data.latents import LatentClips

__all__ = ["Draw", "LatentClips", "LatentWriter", "VideoData", "VideoFolder"]
