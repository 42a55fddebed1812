"""I3D for Kinetics-400 (Carreira & Zisserman 2017), whose 400 logits FVD and KVD compare, and how videos are brought to its size.

Inception-v1 with kernels inflated over time and TensorFlow's SAME padding. Names and shapes are those of the state dict that
VideoGPT, TATS, LVDM and PVDM share. Its batch norms were trained with eps 1e-3, which TensorFlow's graph and StyleGAN-V's
file use; the codes that read the state dict use 1e-5, and their numbers differ a little, so eps is an argument.
Letters: b batch, c channels, t frames, h w; k kernel, s stride.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvdm.models.features.weights import load_published, read_tensors

SIDE = 224  # pixels, of what the network sees
CLASSES = 400
MIN_FRAMES = 9  # an eighth of the frames, rounded up, must be the two that the last pool averages
MIXED = {  # widths of b0, b1a, b1b, b2a, b2b, b3b
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
Size = tuple[int, int, int]  # along t, h, w


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and after, so that ceil(size / stride) windows fit: TensorFlow's SAME."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return x with the zeros of TensorFlow's SAME around its axes of time and space."""
    pads = [same_padding(*each) for each in zip(x.shape[2:], kernel, stride, strict=True)]
    flat = [zeros for pair in reversed(pads) for zeros in pair]  # F.pad starts with the last axis
    return F.pad(x, flat) if any(flat) else x


class SamePool(nn.Module):
    """The largest of each window; the zeros of the padding change none, because inputs are 0 or more. One axis after the
    other, as the larger of shifted copies: PyTorch's pool gives the same numbers and makes all of I3D take half as long again."""

    def __init__(self, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        x = pad_same(x, self.kernel, self.stride)
        for axis, (kernel, stride) in enumerate(zip(self.kernel, self.stride, strict=True), start=2):
            last = x.shape[axis] - kernel  # where the last window can start
            shifted = (x.narrow(axis, start, last + 1) for start in range(kernel))
            x = reduce(torch.maximum, (_every(copy, axis, stride) for copy in shifted))
        return x


def _every(x: Tensor, axis: int, stride: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(None, None, stride),)]


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, eps: float) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))), inplace=True)


class Mixed(nn.Module):
    """Four branches side by side: 1, 1 then 3, 1 then 3, pool then 1."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int, *, eps: float) -> None:
        super().__init__()
        self.b0 = Unit(inputs, b0, eps=eps)
        self.b1a = Unit(inputs, b1a, eps=eps)
        self.b1b = Unit(b1a, b1b, kernel=3, eps=eps)
        self.b2a = Unit(inputs, b2a, eps=eps)
        self.b2b = Unit(b2a, b2b, kernel=3, eps=eps)
        self.b3a = SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(inputs, b3b, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class Logits(nn.Module):
    """A convolution of kernel 1 with a bias, and nothing after it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class I3D(nn.Module):
    """(b, 3, t, 224, 224) in [-1, 1], nine frames or more -> logits averaged over time (b, 400).

    Args:
        eps: of the batch norms.
        width: fraction of the published channels; for random weights only, since no others exist.
    """

    def __init__(self, *, eps: float = 1e-5, width: float = 1.0) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        self.Conv3d_1a_7x7 = Unit(3, scaled(64), kernel=7, stride=2, eps=eps)
        self.MaxPool3d_2a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(scaled(64), scaled(64), eps=eps)
        self.Conv3d_2c_3x3 = Unit(scaled(64), scaled(192), kernel=3, eps=eps)
        self.MaxPool3d_3a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        inputs = scaled(192)
        for name, widths in MIXED.items():
            if name == "4b":
                self.MaxPool3d_4a_3x3 = SamePool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                self.MaxPool3d_5a_2x2 = SamePool((2, 2, 2), (2, 2, 2))
            b0, b1a, b1b, b2a, b2b, b3b = map(scaled, widths)
            self.add_module(f"Mixed_{name}", Mixed(inputs, b0, b1a, b1b, b2a, b2b, b3b, eps=eps))
            inputs = b0 + b1b + b2b + b3b
        self.avg_pool = nn.AvgPool3d((2, 7, 7), (1, 1, 1))
        self.logits = Logits(inputs)

    def forward(self, video: Tensor) -> Tensor:
        x = video
        for layer in self.children():  # in the order in which they were made
            x = layer(x)
        return x.flatten(2).mean(2)  # one position in space


def load_i3d(path: Path, *, eps: float) -> I3D:
    """Return the frozen network of a state dict: 287 tensors, 344 with the counts of batch norms, or older names."""
    with torch.device("meta"):  # all of it comes from the file
        network = I3D(eps=eps)
    tensors = {published_name(name): value for name, value in read_tensors(path).items()}
    load_published(network, tensors, path=path, what="I3D for Kinetics-400")
    return network.eval().requires_grad_(False)


BRANCHES = {"0": "b0", "1.0": "b1a", "1.1": "b1b", "2.0": "b2a", "2.1": "b2b", "3.1": "b3b"}


def published_name(name: str) -> str:
    """Return our name of a tensor in the older PyTorch port of TensorFlow's weights; other names stay as they are.

    mixed_3b.branch_1.0.batch3d.bias is called Mixed_3b.b1a.bn.bias here.
    """
    if not name.startswith(("conv3d_", "mixed_")):
        return name
    name = re.sub(r"branch_(0|[123]\.[01])(?=\.)", lambda found: BRANCHES[found[1]], name).replace(".batch3d.", ".bn.")
    return name.replace("conv3d_0c_1x1.", "logits.") if name.startswith("conv3d_0c") else name[0].upper() + name[1:]


# Videos brought to 224 x 224: (b, c, t, h, w) float -> (b, c, t, 224, 224) ------------------------------------------------------


def stretched(video: Tensor, *, side: int = SIDE) -> Tensor:
    """Return each frame resized to a square, bilinear, without antialias: TATS, LVDM, content-debiased FVD."""
    return _bilinear(video, (side, side))


def covered(video: Tensor, *, side: int = SIDE) -> Tensor:
    """Return the middle of frames whose shorter side is resized to 224, bilinear, without antialias: VideoGPT, DIGAN, PVDM."""
    height, width = video.shape[-2:]
    shorter = min(height, width)
    tall, wide = (math.ceil(length * side / shorter) for length in (height, width))
    top, left = (tall - side) // 2, (wide - side) // 2
    return _bilinear(video, (tall, wide))[..., top : top + side, left : left + side]


def tensorflow_stretched(video: Tensor, *, side: int = SIDE) -> Tensor:
    """Return the same as `stretched`, on the grid of TensorFlow 1: pixel i of n is at i * length / n."""
    for axis in (-2, -1):
        length = video.shape[axis]
        at = torch.arange(side, dtype=torch.float64, device=video.device) * (length / side)
        low = at.long()
        high = (low + 1).clamp(max=length - 1)
        share = (at - low).to(video.dtype).view(-1, *[1] * (-1 - axis))
        video = video.index_select(axis, low) * (1 - share) + video.index_select(axis, high) * share
    return video


def _bilinear(video: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(video.shape[-2:]) == size:
        return video
    frames = F.interpolate(video.transpose(1, 2).flatten(0, 1), size, mode="bilinear", align_corners=False)
    return frames.unflatten(0, (len(video), -1)).transpose(1, 2)
