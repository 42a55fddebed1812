"""Lightning's tensorboard logger for a disk that may be full: a failure stops the logger and not the training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary

from lvdm.files import why_not_written

logger = logging.getLogger(__name__)


class Tensorboard(TensorBoardLogger):
    """A tensorboard logger that writes nothing after a failure; metrics.csv holds the same metrics."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="tensorboard", version="")
        self.has_failed = False
        self._print_error, threading.excepthook = threading.excepthook, self._print_error_of_others

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._try(lambda: super(Tensorboard, self).log_metrics(metrics, step))

    def add_summary(self, summary: Summary, step: int) -> None:
        self._try(lambda: self.experiment.file_writer.add_summary(summary, step))

    def save(self) -> None:
        self._try(super().save)

    def finalize(self, status: str) -> None:
        self._try(lambda: super(Tensorboard, self).finalize(status))
        threading.excepthook = self._print_error

    def _try(self, write: Callable[[], Any]) -> None:
        if self.has_failed:
            return
        try:
            write()
        except (OSError, ValueError) as error:
            failure = error if isinstance(error, OSError) else error.__cause__  # Lightning wraps the error
            if not isinstance(failure, OSError):
                raise
            self.has_failed = True
            why = why_not_written(failure)
            logger.error("cannot write to tensorboard (%s); training continues, and metrics.csv holds the metrics", why)

    def _print_error_of_others(self, error: threading.ExceptHookArgs) -> None:
        """Print no traceback for the writer's thread, whose error the next call logs."""
        if not (type(error.thread).__name__ == "_AsyncWriterThread" and issubclass(error.exc_type, OSError)):
            self._print_error(error)
