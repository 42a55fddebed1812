"""C3D fine-tuned on UCF-101 (Tran et al. 2015; TGANv2's weights), whose class probabilities the inception score needs.

The weights come from Caffe through Chainer, so pools round up at the far end, colours are in the order BGR, and a mean clip is
subtracted, of which rows and columns 8 to 120 of 128 x 171 are taken; as in the published code, the columns are not the middle.
Letters: b batch, c channels, t frames, h w.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.weights import load_published, read_tensors
from lvdm.types import UserError

FRAMES = 16
SIDE = 112  # pixels, of what the network sees
CLASSES = 101
CONVOLUTIONS = {  # widths
    "conv1a": 64,
    "conv2a": 128,
    "conv3a": 256,
    "conv3b": 256,
    "conv4a": 512,
    "conv4b": 512,
    "conv5a": 512,
    "conv5b": 512,
}
POOLED = {  # after which convolutions, and by how much along t, h, w
    "conv1a": (1, 2, 2),
    "conv2a": (2, 2, 2),
    "conv3b": (2, 2, 2),
    "conv4b": (2, 2, 2),
    "conv5b": (2, 2, 2),
}
HIDDEN = 4096
MEAN_SHAPE = (3, FRAMES, 128, 171)  # BGR
MEAN_WINDOW = slice(8, 8 + SIDE)  # of rows and of columns, as TGANv2 takes it


class C3D(nn.Module):
    """(b, 3, 16, 112, 112), BGR, prepared by `prepared` -> class probabilities (b, 101).

    Args:
        width: fraction of the published channels; for random weights only, since no others exist.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        widths = [3, *(max(1, round(channels * width)) for channels in CONVOLUTIONS.values())]
        for name, (inputs, outputs) in zip(CONVOLUTIONS, pairwise(widths), strict=True):
            self.add_module(name, nn.Conv3d(inputs, outputs, 3, padding=1))
        hidden = max(1, round(HIDDEN * width))
        self.fc6 = nn.Linear(widths[-1] * 4 * 4, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        x = clips
        for name in CONVOLUTIONS:
            x = F.relu(self.get_submodule(name)(x), inplace=True)
            if name in POOLED:
                x = F.max_pool3d(x, POOLED[name], ceil_mode=True)  # the last: 2 x 7 x 7 to 1 x 4 x 4
        x = F.relu(self.fc6(x.flatten(1)))
        return self.fc8(F.relu(self.fc7(x))).softmax(dim=1)


def prepared(video: Tensor, mean: Tensor) -> Tensor:
    """RGB in [-1, 1], (b, 3, 16, h, w) -> BGR (b, 3, 16, 112, 112) around 0: whole frames to 112 x 112, bilinear with corners on
    corners, scaled to 0 to 256, less the mean (3, 16, 112, 112)."""
    frames = 128 * video.flip(1).transpose(1, 2).flatten(0, 1)  # (b t, 3, h, w)
    resized = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", align_corners=True)
    return resized.unflatten(0, (len(video), -1)).transpose(1, 2) + (128 - mean)


def load_c3d(path: Path) -> C3D:
    """Return the frozen network of TGANv2's npz: conv1a/W, conv1a/b to fc8/W, fc8/b. Other arrays in it are not read."""
    with torch.device("meta"):  # all of it comes from the file
        network = C3D()
    kinds = {"W": "weight", "b": "bias"}
    renamed = {}
    for name, value in read_tensors(path).items():
        layer, _, kind = name.rpartition("/")
        renamed[f"{layer}.{kinds.get(kind, kind)}"] = value
    read = {name: value for name, value in renamed.items() if name in network.state_dict()}
    load_published(network, read, path=path, what="C3D for UCF-101")
    return network.eval().requires_grad_(False)


def load_mean(path: Path) -> Tensor:
    """Return the part (3, 16, 112, 112) of TGANv2's mean clip that is subtracted."""
    mean = read_tensors(path).get("mean", torch.empty(0)).float()
    mean = mean.squeeze(0) if mean.ndim == 5 else mean
    if mean.shape != MEAN_SHAPE:
        raise UserError(
            f"{path} does not hold C3D's mean clip: 'mean' is {tuple(mean.shape)} and not {MEAN_SHAPE}; take TGANv2's file"
        )
    return mean[:, :, MEAN_WINDOW, MEAN_WINDOW].contiguous()
