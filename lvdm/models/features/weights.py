"""Published weights as files: which are known, where they lie, how they are fetched, checked and read.

A file lies in the folder LVDM_WEIGHTS, else in torch's own cache, under its published name. What is missing is fetched once where
there is a network; LVDM_OFFLINE=1 never tries. Of no file is anything but tensors unpickled.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lvdm.arrays import check_arrays
from lvdm.models.features.download import fetch
from lvdm.types import UserError

BLOCK = 1 << 20  # bytes
COUNTED = "num_batches_tracked"  # an ending of names
WRAPPERS = ("model", "module", "state_dict")  # keys under which training codes save their weights
DAMAGE = (  # what a truncated or foreign file can raise in any of the readers
    OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, SafetensorError,
)  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """A published file. `sha256` is all 64 digits or the first ones, as torchvision's names carry them; None is not known."""

    name: str
    what: str  # one sentence
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    by_hand: str = ""  # where a person gets it, in addition to the addresses or instead

    @property
    def sources(self) -> str:
        """Return where the file can be found, for a sentence."""
        return " or ".join([*self.urls, *([self.by_hand] if self.by_hand else [])])


_FILES = (
    WeightsFile(
        "vgg16-397923af.pth",
        "torchvision's VGG16 for ImageNet, the trunk of LPIPS (vgg)",
        ("https://download.pytorch.org/models/vgg16-397923af.pth",),
        sha256="397923af",
    ),
    WeightsFile(
        "alexnet-owt-7be5be79.pth",
        "torchvision's AlexNet for ImageNet, the trunk of LPIPS (alex)",
        ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",),
        sha256="7be5be79",
    ),
    WeightsFile(
        "i3d_pretrained_400.pt",
        "I3D for Kinetics-400 as a state dict, of VideoGPT, TATS and LVDM",
        ("https://github.com/SongweiGe/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",),
        sha256="55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
        by_hand="Google Drive, file 1mQK8KD8G6UWRa5t87SRMm5PVXtlpneJT of VideoGPT",
    ),
    WeightsFile(
        "i3d_torchscript.pt",
        "I3D for Kinetics-400 as TorchScript, of StyleGAN-V",
        ("https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",),
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    ),
    WeightsFile(
        "pt_inception-2015-12-05-6726825d.pth",
        "Inception-v3 for ImageNet as FID is measured with, of pytorch-fid",
        ("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",),
        sha256="6726825d",
    ),
    WeightsFile(
        "conv3d_deepnetA_ucf.npz",
        "C3D fine-tuned on UCF-101, of TGANv2",
        ("https://github.com/rezoo/tgan2/releases/download/v1.0/conv3d_deepnetA_ucf.npz",),
    ),
    WeightsFile(
        "mean2.npz",
        "the mean clip that C3D subtracts, of TGANv2",
        ("https://github.com/rezoo/tgan2/releases/download/v1.0/mean2.npz",),
    ),
    WeightsFile(
        "c3d_ucf101.pt",
        "C3D fine-tuned on UCF-101 as TorchScript, of StyleGAN-V",
        ("https://www.dropbox.com/s/jxpu7avzdc9n97q/c3d_ucf101.pt?dl=1",),
    ),
    WeightsFile(
        "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        "VideoMAE-v2 ViT-g fine-tuned on Something-Something-v2, of the content-debiased FVD",
        ("https://huggingface.co/OpenGVLab/InternVideoMAE_models/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",),
        sha256="5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
    ),
)
KNOWN = {file.name: file for file in _FILES}


def weights_folder() -> Path:
    """Return the folder of weights."""
    own = os.environ.get("LVDM_WEIGHTS")
    return Path(own).expanduser() if own else Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(name: str, *, without: str, check: Callable[[Path], object] | None = None) -> Path:
    """Return the file of a known name, downloaded if it is missing, once its hash is the known one.

    Args:
        without: what to do without it, for a sentence.
        check: reads a file whose hash is not known, before it takes its place, and raises UserError if it is another one.
    """
    known, path = KNOWN[name], weights_folder() / name
    if not path.is_file():
        failed = _fetch_any(known, path, check or read_tensors)
        if failed:
            raise UserError(
                f"{path} is not there and {failed}; it is {known.what}: put the file from {known.sources} there, "
                f"name its folder by LVDM_WEIGHTS, or {without}"
            )
    elif not _is_published(known, path):
        raise UserError(
            f"{path} is not the published {name}: its sha256 is {sha256_of(path)}, and that of the published file begins with "
            f"{(known.sha256 or '')[:12]}; put the file from {known.sources} there, or {without}"
        )
    return path


def _fetch_any(known: WeightsFile, path: Path, read: Callable[[Path], object]) -> str:
    """Return why the file could not be downloaded from any address; empty if it was."""
    if not known.urls:
        return "has no address to be fetched from"
    if os.environ.get("LVDM_OFFLINE") == "1":
        return "LVDM_OFFLINE=1 forbids to fetch it"
    failures = []
    for url in known.urls:
        try:
            fetch(url, path, check=lambda part: _check_content(known, part, read))
            return ""
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{url} ({error})")
    return f"could not be fetched from {', '.join(failures)}"


def _check_content(known: WeightsFile, path: Path, read: Callable[[Path], object]) -> None:
    """Check the content by its hash if that is known, else by the sums in the archive and by reading it."""
    if known.sha256 is not None:
        if not _is_published(known, path):
            raise UserError(f"its sha256 is {sha256_of(path)}, not {known.sha256}")
        return
    if zipfile.is_zipfile(path):
        check_archive(path)
    read(path)


def check_archive(path: Path) -> None:
    """Check the sums in an archive, which is what PyTorch and NumPy save; nothing in it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except DAMAGE as error:
        raise UserError(f"{path} is no whole archive ({error})") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged in {damaged}")


def _is_published(known: WeightsFile, path: Path) -> bool:
    return known.sha256 is None or sha256_of(path).startswith(known.sha256)


def sha256_of(path: str | Path) -> str:
    """Return the hash of a file's content, computed again only if its size or time have changed."""
    path = Path(path).resolve()
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU: .npz, .safetensors, else a state dict that PyTorch saved."""
    path = Path(path)
    try:
        if path.suffix == ".npz":
            check_arrays(path)
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        reason = str(error).strip().split("\n")[0]  # torch adds advice on how to unpickle everything
        raise UserError(
            f"{path} cannot be read as weights ({reason}): it is truncated or another file; put a whole one there"
        ) from error
    kind = type(content).__name__
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {str(name): value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no named tensors (it holds a {kind}); put a state dict there")
    return tensors


def load_published(network: nn.Module, tensors: dict[str, Tensor], *, path: Path, what: str) -> None:
    """Make these the weights of a network, which may lie on the meta device; the first name or shape that does not fit is one
    sentence. The counts of batch norms are not needed, because published files leave them out."""
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTED)}
    given = {name: value for name, value in tensors.items() if not name.endswith(COUNTED)}
    for name in [*wanted, *given]:
        if name not in given or name not in wanted:
            raise UserError(f"{path} does not hold {what}: {name} is {'missing' if name in wanted else 'in no such network'}")
        if given[name].shape != wanted[name].shape:
            shapes = f"{tuple(given[name].shape)} in the file and {tuple(wanted[name].shape)} in the network"
            raise UserError(f"{path} does not hold {what}: {name} is {shapes}")
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith(COUNTED)}
    network.load_state_dict({name: value.float() for name, value in given.items()} | counts, assign=True)
