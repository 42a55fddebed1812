"""The files that a run leaves: config, checkpoints, model file, metrics, previews, evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lvdm.types import UserError


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>` and what lies in it."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def skipped(self) -> Path:
        return self.path / "skipped_files.txt"

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run's folder {self.path}: {error.strerror}; give another out=FOLDER") from error
