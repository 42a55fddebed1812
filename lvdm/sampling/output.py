"""Where sampled videos are written: a folder with the files of each video of a seed, and a contact sheet of all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lvdm.sampling.writers import ContactSheet, VideoFiles, open_writers, paths_for


@dataclass
class Output:
    """The files of the videos of one seed; `paths` grows with each video that is opened.

    Args:
        folder: where the files lie.
        formats: any of writers.FORMATS.
        fps: frames per second at which the files are shown.
        quality: of mp4, 1 to 10.
        seed: names the files, with the number of the video.
        overwrite: replace files that exist; incomplete: videos whose files are replaced in any case.
        sheet: a contact sheet on which every video is a row.
    """

    folder: Path
    formats: Sequence[str] = ("mp4",)
    fps: float = 8.0
    quality: float = 8.0
    seed: int = 0
    overwrite: bool = False
    incomplete: Collection[int] = ()
    sheet: ContactSheet | None = None
    paths: list[Path] = field(default_factory=list)

    def files_of(self, video: int) -> dict[str, Path]:
        """Return the path of a video in each format. A file appears when it is whole."""
        return paths_for(self.folder, f"seed{self.seed}-{video:05d}", self.formats)

    def open(self, video: int) -> VideoFiles:
        """Open the writers of one video; use as a context, which closes them."""
        files = self.files_of(video)
        self.paths.extend(files.values())
        sheet, overwrite = self.sheet, self.overwrite or video in self.incomplete
        on_frames = None if sheet is None else lambda frames: sheet.write(video, frames)
        return open_writers(files, fps=self.fps, quality=self.quality, overwrite=overwrite, on_frames=on_frames)

    def write(self, videos: Iterable[tuple[int, np.ndarray]]) -> None:
        """Write whole videos, each with its number, and the contact sheet."""
        for video, frames in videos:
            with self.open(video) as files:
                files.write(frames)
        self.close()

    def close(self) -> None:
        """Write the contact sheet."""
        if self.sheet is not None and self.paths:
            self.sheet.close()
            self.paths.append(self.sheet.path)
