"""LPIPS: how different two images look, by features of VGG16 or AlexNet (Zhang et al. 2018), through the `lpips` package.

The package has the small calibrated layers; the trunk's own weights are torchvision's file. Losses use VGG16. The two numbers are
not comparable, so results name the trunk: `lpips_vgg`, `lpips_alex`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lvdm.models.features.weights import find_weights, read_tensors
from lvdm.types import UserError

TRUNKS = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}


def lpips_distance(net: str = "vgg", *, without: str = "leave LPIPS out", with_weights: bool = True) -> nn.Module:
    """Return a frozen network: (b, 3, h, w) twice, in [-1, 1] -> (b, 1, 1, 1). Without weights its values mean nothing.

    Args:
        net: the trunk, one of TRUNKS.
        without: what to do without the trunk's file, for the error if it is missing.
    """
    import lpips  # slow to import, and few need it

    if net not in TRUNKS:
        raise UserError(f"LPIPS has the trunks {' and '.join(TRUNKS)}, not {net!r}")
    if not with_weights:
        return lpips.LPIPS(net=net, pnet_rand=True, pretrained=False, verbose=False).eval().requires_grad_(False)
    path = find_weights(TRUNKS[net], without=without)
    tensors = read_tensors(path)
    distance = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval().requires_grad_(False)
    own = distance.net.state_dict()
    try:
        distance.net.load_state_dict({name: tensors[_in_torchvision(name)] for name in own})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold the trunk {net} of LPIPS ({error}); take torchvision's file {path.name}"
        ) from error
    return distance


def lpips_of_clips(distance: nn.Module, video: Tensor, reconstruction: Tensor, *, frames_at_once: int = 16) -> Tensor:
    """Return (b,), the mean over the frames of each clip, from (b, 3, t, h, w) twice, in [-1, 1]."""
    frames, made = (v.transpose(1, 2).flatten(0, 1).float() for v in (video, reconstruction.clamp(-1, 1)))
    tiles = zip(made.split(frames_at_once), frames.split(frames_at_once), strict=True)
    return torch.cat([distance(*tile).flatten() for tile in tiles]).view(len(video), -1).mean(1)


def _in_torchvision(name: str) -> str:
    """Return the name in torchvision: slice2.5.weight -> features.5.weight."""
    return f"features.{name.split('.', 1)[1]}"
