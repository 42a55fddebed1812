"""Load a model file: its networks with their weights, ready to sample from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lvdm.checkpoints.model_file import CODEC, DENOISER, ModelInfo, check_weights, open_model
from lvdm.config import check_node, import_packages, instantiate
from lvdm.diffusion.objectives import Objective
from lvdm.diffusion.schedules import NoiseSchedule
from lvdm.models.build_limits import no_larger_than
from lvdm.models.codec import DECODE_WINDOW, Codec
from lvdm.models.denoisers import TriplaneUNet
from lvdm.processes import as_device
from lvdm.rules import PATH, require
from lvdm.sampling.pipeline import Loaded, SamplingSettings, VideoModel
from lvdm.sampling.trained import Trained
from lvdm.types import TextEncoder, UserError, check_autoencoder, check_denoiser

AUTOCAST = (torch.bfloat16, torch.float16)


def load(
    path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, *, allow: Sequence[str] = ()
) -> VideoModel:
    """Return the model of a `model.safetensors`, with its averaged weights.

    Args:
        device: cpu, cuda, cuda:N, or auto, which is this process's GPU if there is one.
        dtype: bfloat16 or float16 run denoiser and codec by autocast; None and float32 change nothing.
        allow: your packages whose classes the file may name.
    """
    if dtype not in (None, torch.float32, *AUTOCAST):
        raise UserError(f"dtype is {dtype!r:.99}, expected torch.float32, torch.bfloat16 or torch.float16")
    require(PATH, path=path)
    import_packages(allow)
    with open_model(path) as (info, tensors):
        return _build(info, _File(Path(path), tensors, tuple(allow)), as_device(device), dtype)


def _build(info: ModelInfo, file: _File, device: torch.device, dtype: torch.dtype | None) -> VideoModel:
    settings = None if info.kind == "autoencoder" else file.settings(info)
    dtype = dtype if dtype in AUTOCAST else None
    codec = file.codec(info).to(device)
    codec.compute_dtype = dtype
    named: dict[str, Any] = {"name": str(file.path), "description": asdict(info)}
    model = VideoModel(codec, device=device, dtype=dtype, **named)
    if settings is None:
        return replace(model, loaded=Loaded(file.path, codec, None))
    network: Any = file.network(info.denoiser, DENOISER)
    check_latents(settings, codec, network, file.path)
    denoiser = network.to(device).eval().requires_grad_(False)
    return replace(
        model,
        denoiser=denoiser,
        schedule=file.build(info.schedule, "schedule"),
        objective=file.build(info.objective, "objective"),
        settings=settings,
        trained=file.trained(info, denoiser.inputs.num_labels),
        text_encoder=None if info.text_encoder is None else file.text_encoder(info).to(device),
        loaded=Loaded(file.path, codec, denoiser),
    )


def check_latents(settings: SamplingSettings, codec: Codec, denoiser: nn.Module, path: str | Path) -> None:
    """Refuse a model in `path` whose autoencoder, denoiser and sampling settings do not agree on the latent."""
    shape, planes = tuple(settings.latent_shape), codec.planes
    if shape[0] != codec.latent_channels:
        channels = f"{shape[0]} channels, and its autoencoder's latents have {codec.latent_channels}"
        raise UserError(f"sampling.latent_shape in {path} has {channels}; make the file again")
    if (None if planes is None else planes.length) != (shape[1] if len(shape) == 2 else None):
        made = "(c, t, h, w)" if planes is None else f"{(shape[0], planes.length)}"
        raise UserError(f"sampling.latent_shape in {path} is {shape}, and its autoencoder's latents are {made}; correct it")
    if isinstance(denoiser, TriplaneUNet) and denoiser.planes != planes:
        raise UserError(f"the denoiser in {path} is for {denoiser.planes}, and the autoencoder makes {planes}; correct one")


KINDS = {
    **{"autoencoder": nn.Module, "denoiser": nn.Module},
    **{"schedule": NoiseSchedule, "objective": Objective, "text_encoder": TextEncoder},
}
CONTRACTS = {"autoencoder": check_autoencoder, "denoiser": check_denoiser}


@dataclass
class RecordedText:
    """The text encoder of a model file. Its weights are read at the first prompt, and must be those of training."""

    encoder: TextEncoder
    recorded: str  # the fingerprint in the model file
    path: Path
    is_checked: bool = False

    def __call__(self, captions: list[str]) -> Tensor:
        if not self.is_checked and (found := self.encoder.fingerprint()) != self.recorded:
            raise UserError(
                f"{self.path} was trained with another text encoder ({self.recorded[:8]}) than lies here ({found[:8]}); "
                "put the files there that it was trained with"
            )
        self.is_checked = True
        return self.encoder(captions)

    def fingerprint(self) -> str:
        return self.recorded

    def to(self, device: torch.device | str) -> RecordedText:
        self.encoder = self.encoder.to(device)
        return self


@dataclass(frozen=True)
class _File:
    """A model file's tensors, and how to build what they belong to."""

    path: Path
    tensors: dict[str, Tensor]
    allow: tuple[str, ...]

    def build(self, node: dict[str, Any] | None, part: str) -> Any:
        if node is None:
            raise UserError(f"{self.path} does not say how to build its {part}; make the file again")
        is_ours = str(node.get("target")).partition(".")[0] == "lvdm"
        why = "does not fit this version of lvdm" if is_ours else "cannot be built"
        with self._named(f"the config in {{}} {why}"):
            check_node(node, key=part, kind=KINDS[part], allow=self.allow)
            built = instantiate(node, allow=self.allow)
            if part in CONTRACTS:
                CONTRACTS[part](built)
            return built

    def settings(self, info: ModelInfo) -> SamplingSettings:
        with self._named("{} describes its sampling wrongly"):
            return SamplingSettings.read(info.sampling)

    def trained(self, info: ModelInfo, classes: int) -> Trained | None:
        """Return what the model was trained to do; files of earlier versions do not say."""
        if info.trained is None:
            return None
        with self._named("{} describes its training wrongly"):
            trained = Trained.read(info.trained)
            trained.check_labels(classes)
            return trained

    def codec(self, info: ModelInfo) -> Codec:
        """The autoencoder with its scale."""
        network, window = self.network(info.autoencoder, CODEC), info.sampling.get("decode_window", DECODE_WINDOW)
        with self._named("{} describes its codec wrongly"):
            return Codec(network, scale=info.scale, shift=info.shift, decode_window=window)

    def text_encoder(self, info: ModelInfo) -> TextEncoder:
        """Return the text encoder; its own files may be absent until there is a prompt."""
        return RecordedText(self.build(info.text_encoder, "text_encoder"), str(info.text_fingerprint), self.path)

    def network(self, node: dict[str, Any] | None, prefix: str) -> nn.Module:
        """Return the network with the file's weights. It is built without memory first, because its own weights are replaced."""
        part = {CODEC: "autoencoder", DENOISER: "denoiser"}[prefix]
        weights = {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
        with torch.device("meta"), no_larger_than(weights, self.path):
            module = self.build(node, part)
        check_weights(module, self.tensors, prefix, self.path)
        module.load_state_dict(weights, assign=True)
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):  # a buffer that is not saved
            module = self.build(node, part)
            module.load_state_dict(weights)
        return module

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """An error inside says which file it is about."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{what.format(self.path)}: {error}") from error
