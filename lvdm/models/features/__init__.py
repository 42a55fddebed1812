"""Fixed networks that others trained, for losses and metrics: where their weights lie and how they are read.

Imports lvdm.types only. Weights are files named as published, under LVDM_WEIGHTS where that is set.
"""

from lvdm.models.features.perceptual import lpips_vgg

__all__ = ["lpips_vgg"]
