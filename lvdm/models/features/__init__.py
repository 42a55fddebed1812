"""Fixed networks that others trained, for losses and metrics: where their weights are, how they are read, what they see.

Imports lvdm.types and lvdm.files only. Weights are files named as published, in the folder LVDM_WEIGHTS if that is set. Nothing
but tensors is unpickled, and TorchScript files run only if their hash has been named.
"""

from lvdm.models.features.clip_similarity import ClipSimilarity
from lvdm.models.features.extractors import EXTRACTORS, Extractor, ExtractorRecord, Frozen, FrozenFeatures, make_extractor
from lvdm.models.features.perceptual import lpips_distance, lpips_of_clips
from lvdm.models.features.pixels import psnr, psnr_per_frame, ssim
from lvdm.models.features.weights import KNOWN, WeightsFile, find_weights, read_tensors, sha256_of, weights_folder

__all__ = [
    "EXTRACTORS",
    "ClipSimilarity",
    "Extractor",
    "ExtractorRecord",
    "Frozen",
    "FrozenFeatures",
    "KNOWN",
    "WeightsFile",
    "find_weights",
    "lpips_distance",
    "lpips_of_clips",
    "make_extractor",
    "psnr",
    "psnr_per_frame",
    "read_tensors",
    "sha256_of",
    "ssim",
    "weights_folder",
]
