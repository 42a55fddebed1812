"""metrics.csv of a run: a row for every step at which something was logged, a column for every name.

Lightning's CSV logger starts a new file when a run is resumed. This one continues the file at the step of the resumed run.
"""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lvdm.files import why_not_written, write_whole

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_WRITES = 5.0


class MetricsFile(Logger):
    """A logger that writes the whole file under a temporary name and renames it, so a reader never sees half a row.

    Args:
        path: the file.
        resume: keep the rows of the steps before the first one that is logged now.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, Any]] = {}
        self._earlier = _read(path) if resume and path.exists() else {}
        self._written = 0.0

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any) -> None:
        """Do nothing; the run's config.yaml holds the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None, "Lightning logs with a step"
        if not self.rows:
            self.rows = {earlier: row for earlier, row in self._earlier.items() if earlier < step}
        self.rows.setdefault(step, {}).update({name: float(value) for name, value in metrics.items()})
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.save()

    def go_back_to(self, step: int) -> None:
        """Drop the rows after this step; a resumed run does not log the others again."""
        self._earlier = self.rows = {earlier: row for earlier, row in self._earlier.items() if earlier <= step}

    def is_validated(self, step: int) -> bool:
        """Return whether the row of this step has validation metrics."""
        row = self.rows.get(step, {})
        return any(name.startswith("val/") and value not in (None, "") for name, value in row.items())

    @rank_zero_only
    def save(self) -> None:
        if not self.rows:
            return
        columns = ["step", *sorted(set().union(*self.rows.values()) - {"step"})]

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows({**self.rows[step], "step": step} for step in sorted(self.rows))

        try:
            write_whole(self.path, write)
        except OSError as error:
            why = why_not_written(error)
            logger.error("cannot write %s (%s); its rows are kept and written with the next ones", self.path, why)
        self._written = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _read(path: Path) -> dict[int, dict[str, Any]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("step") or "").isdecimal()]
    return {int(row["step"]): {name: value for name, value in row.items() if name not in ("step", None)} for row in rows}
