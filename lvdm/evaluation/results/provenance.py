"""What a number depends on besides its protocol: the network, the videos, how they were sampled, the versions of packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from lvdm.checkpoints.model_file import read_info
from lvdm.models.features.weights import sha256_of
from lvdm.sampling.solver import Solver
from lvdm.version import __version__

SAMPLED = ("model", "run", "continuation", "infilling")  # kinds of generated videos that say how they were sampled
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "av", "decord")


@dataclass(frozen=True)
class ExtractorFacts:
    """The network that turned clips into features."""

    name: str  # with every setting that changes numbers
    dim: int
    is_comparable: bool  # False for random weights and for files of one's own
    weights: str | None = None  # the file
    sha256: str | None = None


@dataclass(frozen=True)
class RealSource:
    """The real videos: name, fingerprint, and the hash of the manifest of those that were measured."""

    name: str
    fingerprint: str
    manifest_sha256: str
    split: str | None = None  # part of the data: train, test, train+test or whole folder; None for arrays and earlier results
    stored: dict[str, Any] | None = None  # sizes, rates and codecs of the measured videos, skipped ones


@dataclass(frozen=True)
class FakeSource:
    """The measured videos: files ("videos", "array"), a "model" or a "run" (a model in training), which say how they were
    sampled, or a "reconstruction", which says whose codec. A "continuation" or an "infilling" is a model that was given real
    frames."""

    kind: str
    name: str
    sha256: str  # of the folder's files (earlier versions: of names and sizes), the array or the model's file, a run's weights
    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    guidance: float | None = None  # w of eps_c + w (eps_c - eps_u); 0 is off
    is_ema: bool | None = None  # averaged weights; None if that is not known, as of a model in memory
    seed: int | None = None
    step: int | str | None = None  # of training, of a run or a model file; of two files as "20000 + 15000"
    config_sha256: str | None = None  # of a run's resolved config
    clips_sha256: str | None = None  # of the measured clips' hashes, in their order
    stored: dict[str, Any] | None = None  # of videos that exist: as RealSource has it
    given: int | None = None  # latents that a completion is given, of an infilling at each end
    samples: int | None = None  # of each clip, of a completion

    def __post_init__(self) -> None:
        sampled = [self.sampler, self.steps, self.eta, self.guidance, self.seed]
        assert self.kind in ("videos", "array", *SAMPLED, "reconstruction"), f"a source of kind {self.kind!r}"
        is_sampled, is_run = self.kind in SAMPLED, self.kind == "run"
        assert {value is not None for value in sampled} == {is_sampled}, "a model, and only a model, says how it was sampled"
        assert is_sampled or self.is_ema is None, "a model, and only a model, says whether its weights are averaged"
        assert is_sampled or self.step is None, "a model, and only a model, says its step"
        assert (self.config_sha256 is not None) == is_run, "a run, and only a run, says its config"
        assert self.step is not None or not is_run, "a run, and only a run or a model, says its step"

    @staticmethod
    def of_model(origin: Origin, solver: Solver, *, guidance: float, seed: int) -> FakeSource:
        """Return what a result says of videos that a model sampled."""
        how: dict[str, Any] = {"sampler": solver.sampler.name, "steps": len(solver.grid), "eta": solver.eta}
        how |= {"guidance": guidance, "seed": seed}
        if isinstance(origin, WeightsInMemory):
            kind = "model" if origin.step is None else "run"
            return FakeSource(kind=kind, **asdict(origin), **how)
        infos = [read_info(path) for path in origin]
        averages = [info.config.get("average") for info in infos]
        steps = [info.step for info in infos]
        return FakeSource(
            kind="model",
            name=" + ".join(map(short_name, origin)),
            sha256=" + ".join(map(sha256_of, origin)),
            is_ema=None if None in averages else 0 not in averages,
            step=steps[0] if len(set(steps)) == 1 else " + ".join(map(str, steps)),
            **how,
        )


@dataclass(frozen=True)
class WeightsInMemory:
    """A model that was not loaded from a file: in training, or built by a user."""

    name: str  # of the run
    sha256: str  # of the weights, by `weights_sha256`
    is_ema: bool | None = None
    step: int | None = None  # of a run
    config_sha256: str | None = None


Origin = Sequence[Path] | WeightsInMemory  # a model file, or two if another model fills gaps


def short_name(path: Path) -> str:
    """Return what results call a model file: runs/short/model.safetensors is short/model.safetensors."""
    return f"{path.parent.name}/{path.name}"


def package_versions() -> dict[str, str]:
    """Return the versions of lvdm and of those packages that change numbers, if they are installed."""
    found = {"lvdm": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the time as results have it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Prompts:
    """The prompts of the measured videos: a hash of them in order, and the lengths of the shortest and longest video."""

    sha256: str
    frames: tuple[int, int]
