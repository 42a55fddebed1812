"""The files of a run: config, checkpoints, model file, metrics, previews, evaluations."""

from __future__ import annotations

from pathlib import Path

from lvdm.types import UserError


class RunFolder:
    """A run's folder, `runs/<name>`, and the paths of its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.model, self.metrics = path / "config.yaml", path / "model.safetensors", path / "metrics.csv"
        self.checkpoints, self.previews, self.evaluations = path / "checkpoints", path / "previews", path / "evaluations"
        self.skipped = path / "skipped_files.txt"

    @staticmethod
    def of(out: str, name: str) -> RunFolder:
        """Return the folder of a run's name below `out`."""
        if "\0" in out + name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"a run in {out!r} cannot be called {name!r}; give a name that stays below that folder")
        return RunFolder(Path(out) / name)

    def make(self) -> None:
        """Make the folder, unless it exists."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run's folder {self.path}: {error.strerror}; give another out=FOLDER") from error
