"""What metrics see of a clip: extractors, each a frozen network with a record that says what it is.

An extractor takes clips as they are stored, uint8 (b, t, h, w, 3), and does its own scaling and resizing. It computes in full
float32, since TF32 and autocast change scores. Random ones need no file, so that a pipeline works without weights; their
numbers are comparable with nothing but themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from lvdm.models.features import c3d, i3d, videomae
from lvdm.models.features.random_networks import random_c3d, random_i3d
from lvdm.models.features.registry import Registry
from lvdm.models.features.torchscript import Scripted, load_torchscript
from lvdm.models.features.weights import check_archive, find_weights, sha256_of
from lvdm.types import UserError, check_contract

WITHOUT = "take random features or weights of your own, whose numbers are not comparable"
FRAMES_AT_ONCE = 128  # of a pass on a GPU
I3D_FLAGS = {"rescale": True, "resize": True, "return_features": True}  # of StyleGAN-V's TorchScript file
INSTEAD = "take the extractor {}, which reads nothing but tensors"


class Extractor(Protocol):
    """A frozen network that turns clips into features."""

    name: str  # unique, with every setting that changes numbers
    dim: int
    min_frames: int
    max_frames: int | None  # None: any number
    is_comparable: bool  # with numbers of others
    weights: str | None  # names of the files, with " + " between
    sha256: str | None  # their hashes, in the same order

    def __call__(self, clips: Tensor) -> Tensor: ...  # levels (b, t, h, w, 3), uint8 or not rounded -> float32 (b, dim)


class FrozenFeatures:
    """An extractor made of a network and of what prepares clips for it.

    Args:
        network: frozen; takes what `prepare` returns.
        prepare: uint8 (b, 3, t, h, w) -> input of the network.
        name, dim, min_frames, max_frames, is_comparable: as in Extractor.
        files: the weights.
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
        is_comparable: bool = True,
        files: tuple[Path, ...] = (),
    ) -> None:
        self.network, self.prepare, self.device = network, prepare, torch.device("cpu")
        self.name, self.dim, self.min_frames, self.max_frames = name, dim, min_frames, max_frames
        self.is_comparable = is_comparable
        self.weights = " + ".join(path.name for path in files) or None
        self.sha256 = " + ".join(sha256_of(path) for path in files) or None

    def clips_at_once(self, frames: int) -> int:
        """Return how many clips of so many frames make a pass on this device: always the same number, because kernels, and with
        them the rounding, are chosen by the size of a batch. More than one is not quicker on a CPU."""
        return 1 if self.device.type == "cpu" else max(1, FRAMES_AT_ONCE // frames)

    def to(self, device: torch.device | str) -> FrozenFeatures:
        """Move the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype not in (torch.uint8, torch.float32):
            got = f"{str(clips.dtype).removeprefix('torch.')} {tuple(clips.shape)}"
            raise UserError(f"{self.name} takes clips as uint8 or float32 levels (b, t, h, w, 3), not {got}")
        check_frames(self, clips.shape[1])
        with full_precision(self.device):
            video = clips.to(self.device).permute(0, 4, 1, 2, 3)  # (b, 3, t, h, w)
            return self.network(self.prepare(video)).float()


def check_frames(extractor: Extractor, frames: int) -> None:
    """Refuse clips of more or fewer frames than an extractor takes."""
    least, most = extractor.min_frames, extractor.max_frames
    if frames < least or (most is not None and frames > most):
        wanted = f"{least}" + ("" if most == least else " or more")
        raise UserError(
            f"{extractor.name} takes clips of {wanted} frames, not {frames}; choose another number of frames or extractor"
        )


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 within as it is written, on a GPU as on a CPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# Records ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen:
    """A network and what prepares clips for it, as FrozenFeatures takes them."""

    network: nn.Module
    prepare: Callable[[Tensor], Tensor] = lambda video: video


@dataclass(frozen=True)
class ExtractorRecord:
    """An extractor by name: its loader, and what measurements need to know of it.

    Args:
        name: what protocols call it.
        details: what results call it, with every setting that changes numbers; `name` by default.
        what: one sentence on the network.
        load: takes the paths of `weights`, or, if `is_random`, `seed` and `width`; returns the network.
        dim, min_frames, max_frames: as in Extractor.
        metrics: names of the metrics that are of its features.
        weights: names of published files, each with a function that reads one and so checks it.
        is_random: whether its weights are drawn.
    """

    name: str
    what: str
    load: Callable[..., Frozen]
    dim: int
    min_frames: int
    max_frames: int | None = None
    metrics: tuple[str, ...] = ()
    details: str = ""
    weights: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    is_random: bool = False

    def make(self, *, seed: int = 0, width: float = 1.0, weights: Sequence[Path] = ()) -> FrozenFeatures:
        """Return the extractor on the CPU; `weights` are files of one's own instead of the published ones."""
        own = self._own_files(weights)
        files = own or tuple(find_weights(name, without=WITHOUT, check=check) for name, check in self.weights.items())
        made = self.load(seed, width) if self.is_random else self.load(*files)
        name = (self.details or self.name) + (" own weights" if own else "")
        if self.is_random:
            name += f" seed {seed}" + (f" width {width:g}" if width != 1 else "")
        return FrozenFeatures(
            made.network,
            made.prepare,
            name=name,
            dim=self.dim,
            min_frames=self.min_frames,
            max_frames=self.max_frames,
            is_comparable=not self.is_random and not own,
            files=files,
        )

    def _own_files(self, weights: Sequence[Path]) -> tuple[Path, ...]:
        """Return files of one's own, in the order of the published ones, once there is one for each."""
        if weights and len(weights) != len(self.weights):
            expected = f"it reads {' and '.join(self.weights)}" if self.weights else "it reads no file"
            raise UserError(f"weights has {len(weights)} files for {self.name}, but {expected}; give one for each, in this order")
        if missing := [path for path in weights if not Path(path).is_file()]:
            raise UserError(f"there is no file {missing[0]} of weights; correct the path")
        return tuple(map(Path, weights))


@dataclass(frozen=True)
class OwnExtractor:
    """A user's class or function that returns an Extractor, under its dotted path."""

    name: str
    factory: Callable[[], Extractor]
    metrics: tuple[str, ...] = ()
    is_random: bool = False

    def make(self, *, weights: Sequence[Path] = (), **_: object) -> Extractor:
        """Return the extractor, once it has what metrics need."""
        if weights:
            raise UserError(f"weights has no effect on {self.name}, which loads its own; leave it out")
        made = self.factory()
        check_contract(made, Extractor)
        return made


EXTRACTORS: Registry[ExtractorRecord | OwnExtractor] = Registry("extractor")


def add_extractor(path: str, found: object) -> str:
    """Register what a dotted path names, a record or a class of extractors, and return the name by which protocols call it."""
    if isinstance(found, ExtractorRecord):
        return EXTRACTORS.add(found).name
    if not callable(found):
        raise UserError(f"{path} is a {type(found).__name__}; expected an ExtractorRecord or a class of extractors")
    return EXTRACTORS.add(OwnExtractor(path, found)).name


def make_extractor(
    name: str, *, device: torch.device | str = "cpu", seed: int = 0, width: float = 1.0, weights: Sequence[Path] = ()
) -> Extractor:
    """Return the extractor of a name in EXTRACTORS, on a device.

    Args:
        seed: of the weights of a random one.
        width: fraction of the published channels, of a random one; less is quicker.
        weights: files of one's own instead of the published ones; the numbers are then not comparable.
    """
    record = EXTRACTORS.find(name)
    if record.is_random and not 0 < width <= 1:
        raise UserError(f"width {width:g}: a random extractor has more than 0 and at most 1 of the published channels")
    if not record.is_random and (seed, width) != (0, 1.0):
        raise UserError(f"the weights of {name} are given, so seed {seed} and width {width:g} have no effect; leave them out")
    return moved(record.make(seed=seed, width=width, weights=weights), device)


def moved(extractor: Extractor, device: torch.device | str) -> Extractor:
    """Return the extractor on a device; one that has no `to` stays where it is."""
    return extractor.to(device) if hasattr(extractor, "to") else extractor


# Published and random networks ---------------------------------------------------------------------------------------------


def _centred(video: Tensor) -> Tensor:
    """Return levels 0 to 255 scaled to [-1, 1]."""
    return video.float() * (2 / 255) - 1


def _i3d(name: str, what: str, *, eps: float, resize: str) -> ExtractorRecord:
    resized = {"stretch": i3d.stretched, "cover": i3d.covered, "tf1": i3d.tensorflow_stretched}[resize]

    def load(path: Path) -> Frozen:
        return Frozen(i3d.load_i3d(path, eps=eps), lambda video: _centred(resized(video.float())))

    return OF_I3D(name, what, load, details=f"i3d eps {eps:g} {resize}{i3d.SIDE}", weights={"i3d_pretrained_400.pt": load})


def _random_i3d(seed: int, width: float) -> Frozen:
    return Frozen(random_i3d(seed, width=width), lambda video: _centred(i3d.stretched(video.float())))


def _i3d_torchscript(path: Path) -> Frozen:
    return Frozen(Scripted(load_torchscript(path, instead=INSTEAD.format("i3d-eps1e-3")), I3D_FLAGS))


def _prepared_c3d(network: nn.Module, mean: Tensor) -> Frozen:
    return Frozen(network, lambda video: c3d.prepared(_centred(video), mean.to(video.device)))


OF_I3D = partial(ExtractorRecord, dim=i3d.CLASSES, min_frames=i3d.MIN_FRAMES, metrics=("fvd", "kvd"))
OF_C3D = partial(ExtractorRecord, dim=c3d.CLASSES, min_frames=c3d.FRAMES, max_frames=c3d.FRAMES, metrics=("is",))
for _record in (
    _i3d("i3d", "I3D as VideoGPT, TATS and LVDM read it", eps=1e-5, resize="stretch"),
    _i3d("i3d-cover", "the same, with frames resized to cover the square and cropped", eps=1e-5, resize="cover"),
    _i3d("i3d-eps1e-3", "I3D with the eps that it was trained with", eps=1e-3, resize="stretch"),
    _i3d("i3d-tf1", "the same, resized as TensorFlow 1 does", eps=1e-3, resize="tf1"),
    OF_I3D(
        "i3d-torchscript",
        "I3D as StyleGAN-V's TorchScript file",
        _i3d_torchscript,
        details="i3d torchscript",
        weights={"i3d_torchscript.pt": check_archive},
    ),
    OF_C3D(
        "c3d",
        "C3D fine-tuned on UCF-101, of TGANv2",
        lambda path, mean: _prepared_c3d(c3d.load_c3d(path), c3d.load_mean(mean)),
        details=f"c3d tgan2 {c3d.SIDE}",
        weights={
            "conv3d_deepnetA_ucf.npz": lambda path: c3d.load_c3d(path),
            "mean2.npz": lambda path: c3d.load_mean(path),
        },
    ),
    OF_C3D(
        "c3d-torchscript",
        "C3D as StyleGAN-V's TorchScript file",
        lambda path: Frozen(Scripted(load_torchscript(path, instead=INSTEAD.format("c3d")), {})),
        details="c3d torchscript",
        weights={"c3d_ucf101.pt": check_archive},
    ),
    ExtractorRecord(
        "videomae",
        "VideoMAE-v2 ViT-g fine-tuned on Something-Something-v2",
        lambda path: Frozen(videomae.load_videomae(path), lambda video: i3d.stretched(video.float() / 255)),
        dim=videomae.WIDTH,
        min_frames=videomae.FRAMES,
        metrics=("cdfvd",),
        details=f"videomae v2 vit-g stretch{videomae.SIDE}",
        weights={"vit_g_hybrid_pt_1200e_ssv2_ft.pth": lambda path: videomae.load_videomae(path)},
    ),
    OF_I3D("random-i3d", "I3D with random weights", _random_i3d, is_random=True),
    OF_C3D(
        "random-c3d",
        "C3D with random weights and grey as the mean clip",
        lambda seed, width: _prepared_c3d(random_c3d(seed, width=width), torch.full((), 128.0)),
        is_random=True,
    ),
):
    EXTRACTORS.add(_record)
