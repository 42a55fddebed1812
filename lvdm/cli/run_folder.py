"""The files that a run leaves: config, checkpoints, model file, metrics, previews; and which checkpoint it goes on from."""

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
    def skipped(self) -> Path:
        return self.path / "skipped_files.txt"

    def make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run's folder {self.path}: {error.strerror}; give another out=FOLDER") from error

    def checkpoint_to_resume(self, resume: str) -> Path | None:
        """`auto`: the run's last.ckpt if there is one; `never`: none, and no run may be there; else the path given."""
        last = self.checkpoints / "last.ckpt"
        if resume == "auto":
            return last if last.exists() else None
        if resume == "never":
            if self.config.exists():
                raise UserError(f"the run {self.path} exists; give another --name, remove it, or --resume auto to go on with it")
            return None
        if not Path(resume).is_file():
            raise UserError(f"--resume {resume}: there is no such checkpoint; give auto, never, or the path of a .ckpt file")
        return Path(resume)
