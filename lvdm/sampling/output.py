"""Where sampled videos are written: a folder with the files of each video of a seed, and a contact sheet of all.

`Output` is what a user asks for. `open_output` checks it before the work and returns the `OutputFiles` to write to.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lvdm.processes import Process
from lvdm.rules import FLAG, PATH, Rule, number, optional, require
from lvdm.sampling.kept_settings import compare_settings, keep_settings
from lvdm.sampling.temporaries import remove_temporaries
from lvdm.sampling.writers import FORMATS, ContactSheet, VideoFiles, open_writers, paths_for
from lvdm.types import UserError

FPS_UNKNOWN = 8.0  # to show a video by if nobody gives a rate
QUALITY = 8.0
SHEET_COLUMNS = 10
SOME_FORMATS = Rule(
    f"a list of {', '.join(FORMATS)}",
    lambda value: isinstance(value, (list, tuple)) and len(value) > 0 and all(each in FORMATS for each in value),
)


@dataclass(frozen=True)
class Output:
    """Where and how sampled videos are written.

    Args:
        folder: where the files lie; None is samples/NAME of the model, with a number if such files exist there.
        formats: any of mp4, gif, npz and frames (a folder of PNG files).
        fps: frames per second at which the files are shown; None is `sampling.fps` of the model, or 8.
        quality: of mp4, 1 to 10; None is 8.
        overwrite: replace files that exist.
        contact_sheet: write one PNG with frames of all videos too, one row a video.
        resume: sample the videos that are missing in the folder, which was started with resume too.
    """

    folder: str | Path | None = None
    formats: Sequence[str] = ("mp4",)
    fps: float | None = None
    quality: float | None = None
    overwrite: bool = False
    contact_sheet: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        require(optional(PATH), folder=self.folder)
        require(SOME_FORMATS, formats=self.formats)
        require(optional(number(1e-3, 1e6)), fps=self.fps)
        require(optional(number(1, 10)), quality=self.quality)
        require(FLAG, overwrite=self.overwrite, contact_sheet=self.contact_sheet, resume=self.resume)
        if self.quality is not None and "mp4" not in self.formats:
            raise UserError(f"quality is that of mp4, but the formats are {', '.join(self.formats)}; leave it out or add mp4")
        if self.resume and (self.folder is None or self.overwrite or self.contact_sheet):
            raise UserError("resume needs a folder, and excludes overwriting and a contact sheet (which needs all videos)")


@dataclass
class OutputFiles:
    """The files of the videos of one seed; `paths` grows with each video that is opened.

    Args:
        missing: numbers of the videos to sample.
        incomplete: videos whose files are replaced in any case, because some of their formats are missing.
        sheet: a contact sheet on which every video is a row.
    """

    folder: Path
    formats: Sequence[str]
    fps: float
    quality: float
    seed: int
    overwrite: bool
    missing: Sequence[int] = ()
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


def open_output(
    out: Output,
    videos: Sequence[int],
    *,
    name: str,
    seed: int,
    frames: int,
    fps: float | None,
    settings: Mapping[str, str],
) -> OutputFiles:
    """Return where these videos go, checked before the work, and which of them are missing.

    Args:
        videos: numbers of this process's videos.
        name: of the folder if none is given.
        frames: of one video, for the contact sheet.
        fps: the model's own.
        settings: all that decides what a video shows; a resumed folder must have the same.
    """
    process = Process.this()
    rate, quality = out.fps or fps or FPS_UNKNOWN, QUALITY if out.quality is None else out.quality
    files = OutputFiles(Path(), out.formats, rate, quality, seed, out.overwrite, missing=list(videos))
    sheet = f"seed{seed}-contact-sheet{f'-rank{process.rank}' if process.count > 1 else ''}.png"
    names = [path.name for video in videos for path in files.files_of(video).values()]
    names += [sheet] if out.contact_sheet else []
    if out.resume and out.folder is not None:
        compare_settings(Path(out.folder), seed, settings)
    files.folder = _folder(out, Path("samples") / name, names, alone=process.count == 1)
    _make_writable(files.folder)
    if out.contact_sheet:
        files.sheet = ContactSheet(files.folder / sheet, every=max(1, frames // SHEET_COLUMNS), overwrite=out.overwrite)
    if out.resume:
        if process.rank == 0:
            keep_settings(files.folder, seed, settings)
        written = {video: [path.exists() for path in files.files_of(video).values()] for video in videos}
        files.missing = [video for video in videos if not all(written[video])]
        for path in (path for video in files.missing for path in files.files_of(video).values()):
            remove_temporaries(path)
        files.incomplete = {video for video in files.missing if any(written[video])}  # one format of two
    return files


def _folder(out: Output, default: Path, names: Sequence[str], *, alone: bool) -> Path:
    """Return the requested folder, or the default one with the first number at which none of the files exists."""
    folder = default if out.folder is None else Path(out.folder)

    def taken(folder: Path) -> str | None:
        return next((name for name in names if (folder / name).exists()), None)

    if out.overwrite or out.resume or not taken(folder):
        return folder
    if out.folder is None and alone:
        numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
        return next(folder for folder in numbered if not taken(folder))
    raise UserError(f"{folder} has {taken(folder)} already; give another folder, or allow overwriting to replace it")


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; give another one") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {folder}; give another folder")
