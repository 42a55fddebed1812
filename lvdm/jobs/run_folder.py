"""The files of a run: config, checkpoints, model file, metrics, previews, evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lvdm.types import UserError


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, `runs/<name>`, and the paths of its files."""

    path: Path

    @staticmethod
    def of(out: str, name: str) -> RunFolder:
        """Return the folder of a run's name below `out`."""
        if "\0" in out + name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"a run in {out!r} cannot be called {name!r}; give a name that stays below that folder")
        return RunFolder(Path(out) / name)

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
