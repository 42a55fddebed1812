"""What metrics see of a clip: a frozen network by name, with everything that changes its numbers in that name.

An extractor takes clips as they are stored, uint8 (b, t, h, w, 3), and does its own scaling and resizing. It computes in full
float32 whatever surrounds it, since TF32 and autocast change scores. Random ones need no file and keep a pipeline working where
no weights can be had; their numbers are comparable with nothing but themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from lvdm.models.features import c3d, i3d, videomae
from lvdm.models.features.random_networks import random_c3d, random_i3d
from lvdm.models.features.torchscript import ScriptedI3D, load_torchscript
from lvdm.models.features.weights import check_archive, find_weights, sha256_of
from lvdm.types import UserError

WITHOUT = "take --features random, whose numbers are not comparable"
INSTEAD = "take the extractor {}, which reads nothing but tensors"


class Extractor(Protocol):
    name: str  # unique, with every setting that changes numbers
    dim: int
    min_frames: int
    max_frames: int | None  # None: any number
    is_comparable: bool  # with numbers of others
    weights: str | None  # names of the files, with " + " between
    sha256: str | None  # their hashes, in the same order

    def __call__(self, clips: Tensor) -> Tensor: ...  # uint8 (b, t, h, w, 3), any device -> float32 (b, dim)


class FrozenFeatures:
    """An extractor of a network and of what brings clips to it.

    Args:
        network: frozen; takes what `prepare` makes.
        prepare: uint8 (b, 3, t, h, w) -> input of the network.
        name, dim, min_frames, max_frames: as in Extractor.
        files: the weights; without, the numbers are comparable with nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        *,
        name: str,
        dim: int,
        min_frames: int,
        max_frames: int | None = None,
        files: tuple[Path, ...] = (),
    ) -> None:
        self.network, self.prepare, self.device = network, prepare, torch.device("cpu")
        self.name, self.dim, self.min_frames, self.max_frames = name, dim, min_frames, max_frames
        self.is_comparable = bool(files)
        self.weights = " + ".join(path.name for path in files) or None
        self.sha256 = " + ".join(sha256_of(path) for path in files) or None

    def to(self, device: torch.device | str) -> FrozenFeatures:
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def check_frames(self, frames: int) -> None:
        """Whether it takes clips of so many."""
        if frames < self.min_frames or (self.max_frames is not None and frames > self.max_frames):
            wanted = f"{self.min_frames}" + ("" if self.max_frames == self.min_frames else " or more")
            raise UserError(
                f"{self.name} takes clips of {wanted} frames, not {frames}; choose another number of frames or extractor"
            )

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != torch.uint8:
            got = f"{str(clips.dtype).removeprefix('torch.')} {tuple(clips.shape)}"
            raise UserError(f"{self.name} takes clips as uint8 (b, t, h, w, 3), not {got}")
        self.check_frames(clips.shape[1])
        with full_precision(self.device):
            video = clips.to(self.device).permute(0, 4, 1, 2, 3)  # (b, 3, t, h, w)
            return self.network(self.prepare(video)).float()


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Within: float32 as it is written, on a GPU as on a CPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _centred(video: Tensor) -> Tensor:
    """0..255 -> [-1, 1]."""
    return video.float() * (2 / 255) - 1


# Trained ------------------------------------------------------------------------------------------------------------------

RESIZES = {"stretch": i3d.stretched, "cover": i3d.covered, "tf1": i3d.tensorflow_stretched}


def _i3d(eps: float, resize: str) -> FrozenFeatures:
    path = find_weights("i3d_pretrained_400.pt", without=WITHOUT, check=lambda part: i3d.load_i3d(part, eps=eps))
    return FrozenFeatures(
        i3d.load_i3d(path, eps=eps),
        lambda video: _centred(RESIZES[resize](video.float())),
        name=f"i3d eps {eps:g} {resize}{i3d.SIDE}",
        dim=i3d.CLASSES,
        min_frames=i3d.MIN_FRAMES,
        files=(path,),
    )


def _i3d_torchscript() -> FrozenFeatures:
    path = find_weights("i3d_torchscript.pt", without=WITHOUT, check=check_archive)
    scripted = load_torchscript(path, instead=INSTEAD.format("i3d-eps1e-3"))
    sizes = {"dim": i3d.CLASSES, "min_frames": i3d.MIN_FRAMES}
    return FrozenFeatures(ScriptedI3D(scripted), lambda video: video, name="i3d torchscript", files=(path,), **sizes)


def _c3d() -> FrozenFeatures:
    path = find_weights("conv3d_deepnetA_ucf.npz", without=WITHOUT, check=c3d.load_c3d)
    of_mean = find_weights("mean2.npz", without=WITHOUT, check=c3d.load_mean)
    return _c3d_of(c3d.load_c3d(path), c3d.load_mean(of_mean), name=f"c3d tgan2 {c3d.SIDE}", files=(path, of_mean))


def _c3d_of(network: nn.Module, mean: Tensor, *, name: str, files: tuple[Path, ...] = ()) -> FrozenFeatures:
    sizes = {"dim": c3d.CLASSES, "min_frames": c3d.FRAMES, "max_frames": c3d.FRAMES}
    prepare = lambda video: c3d.prepared(_centred(video), mean.to(video.device))  # noqa: E731
    return FrozenFeatures(network, prepare, name=name, files=files, **sizes)


def _c3d_torchscript() -> FrozenFeatures:
    path = find_weights("c3d_ucf101.pt", without=WITHOUT, check=check_archive)
    scripted = load_torchscript(path, instead=INSTEAD.format("c3d"))
    sizes = {"dim": c3d.CLASSES, "min_frames": c3d.FRAMES, "max_frames": c3d.FRAMES}
    return FrozenFeatures(scripted, lambda video: video, name="c3d torchscript", files=(path,), **sizes)


def _videomae() -> FrozenFeatures:
    path = find_weights("vit_g_hybrid_pt_1200e_ssv2_ft.pth", without=WITHOUT, check=videomae.load_videomae)
    return FrozenFeatures(
        videomae.load_videomae(path),
        lambda video: i3d.stretched(video.float() / 255),
        name=f"videomae v2 vit-g stretch{videomae.SIDE}",
        dim=videomae.WIDTH,
        min_frames=videomae.FRAMES,
        files=(path,),
    )


# Random -------------------------------------------------------------------------------------------------------------------


def _random_i3d(seed: int, width: float) -> FrozenFeatures:
    return FrozenFeatures(
        random_i3d(seed, width=width),
        lambda video: _centred(i3d.stretched(video.float())),
        name=_random_name("random-i3d", seed, width),
        dim=i3d.CLASSES,
        min_frames=i3d.MIN_FRAMES,
    )


def _random_c3d(seed: int, width: float) -> FrozenFeatures:
    """With grey as the mean clip."""
    return _c3d_of(random_c3d(seed, width=width), torch.full((), 128.0), name=_random_name("random-c3d", seed, width))


def _random_name(name: str, seed: int, width: float) -> str:
    return f"{name} seed {seed}" + (f" width {width:g}" if width != 1 else "")


# By name ------------------------------------------------------------------------------------------------------------------

TRAINED: dict[str, Callable[[], FrozenFeatures]] = {
    "i3d": lambda: _i3d(1e-5, "stretch"),
    "i3d-cover": lambda: _i3d(1e-5, "cover"),
    "i3d-eps1e-3": lambda: _i3d(1e-3, "stretch"),
    "i3d-tf1": lambda: _i3d(1e-3, "tf1"),
    "i3d-torchscript": _i3d_torchscript,
    "c3d": _c3d,
    "c3d-torchscript": _c3d_torchscript,
    "videomae": _videomae,
}
RANDOM: dict[str, Callable[[int, float], FrozenFeatures]] = {"random-i3d": _random_i3d, "random-c3d": _random_c3d}
EXTRACTORS: dict[str, Callable[..., FrozenFeatures]] = TRAINED | RANDOM


def make_extractor(name: str, *, device: torch.device | str = "cpu", seed: int = 0, width: float = 1.0) -> FrozenFeatures:
    """The extractor of a name in EXTRACTORS, on a device.

    Args:
        seed: of the weights of a random one.
        width: fraction of the published channels, of a random one; less is quicker.
    """
    if name in RANDOM:
        if not 0 < width <= 1:
            raise UserError(f"width {width:g}: a random extractor has more than 0 and at most 1 of the published channels")
        return RANDOM[name](seed, width).to(device)
    if name not in TRAINED:
        raise UserError(f"there is no extractor {name!r}; known are {', '.join(EXTRACTORS)}")
    if (seed, width) != (0, 1.0):
        raise UserError(f"the weights of {name} are given, so seed {seed} and width {width:g} have no effect; leave them out")
    return TRAINED[name]().to(device)
