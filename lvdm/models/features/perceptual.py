"""LPIPS: how different two images look, by features of VGG16 (Zhang et al. 2018), through the `lpips` package.

The package has the small calibrated layers; VGG16's own weights are torchvision's file.
"""

from __future__ import annotations

from torch import nn

from lvdm.models.features.weights import read_weights, weights_folder
from lvdm.types import UserError

VGG16 = "vgg16-397923af.pth"
URL = f"https://download.pytorch.org/models/{VGG16}"


def lpips_vgg(*, with_weights: bool = True) -> nn.Module:
    """(b, 3, h, w) twice, in [-1, 1] -> (b, 1, 1, 1); frozen. Without weights it has the same size and says nothing."""
    import lpips  # slow to import, and few need it

    if not with_weights:
        return lpips.LPIPS(net="vgg", pnet_rand=True, pretrained=False, verbose=False).eval().requires_grad_(False)
    features = read_weights(VGG16, url=URL, without="set the weight lpips of the reconstruction loss to 0")
    distance = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval().requires_grad_(False)
    own = distance.net.state_dict()
    try:
        distance.net.load_state_dict({name: features[_in_torchvision(name)] for name in own})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{weights_folder() / VGG16} does not hold VGG16 ({error}); take torchvision's file from {URL}"
        ) from error
    return distance


def _in_torchvision(name: str) -> str:
    """slice2.5.weight -> features.5.weight."""
    return f"features.{name.split('.', 1)[1]}"
