"""Videos out, as a stream: mp4, gif, npz, a folder of PNGs, and a contact sheet of several videos.

Frames are uint8 (k, h, w, 3), any k at a time; nothing here holds a whole video. Each file is written under a temporary name and
renamed when it is whole. It replaces an existing file only with `overwrite`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import imageio_ffmpeg
import numpy as np
from PIL import Image

from lvdm.files import why_not_written
from lvdm.sampling.temporaries import remove, temporary_name
from lvdm.types import UserError

Frames = np.ndarray  # uint8 (k, h, w, 3)
FORMATS = ("mp4", "gif", "npz", "frames")


class VideoWriter(Protocol):
    path: Path

    def write(self, frames: Frames) -> None: ...

    def close(self) -> None: ...  # the file appears

    def discard(self) -> None: ...  # nothing remains


class _Writer:
    """The base of all formats: the file's path, and its temporary path until it is complete."""

    def __init__(self, path: str | Path, *, overwrite: bool) -> None:
        self.path, self.overwrite = Path(path), overwrite
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = temporary_name(self.path)

    def discard(self) -> None:
        remove(self.temporary)

    def _publish(self) -> None:
        _publish(self.temporary, self.path, overwrite=self.overwrite)


class _FfmpegWriter(_Writer):
    """Pipes raw frames into ffmpeg, which is started when the first frame gives the size."""

    container = ""

    def __init__(self, path: str | Path, *, fps: float, overwrite: bool = False) -> None:
        super().__init__(path, overwrite=overwrite)
        if not fps > 0:
            raise UserError(f"a video cannot be shown at {fps} frames per second; give a positive number")
        self.fps = Fraction(fps).limit_denominator(1001)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as ffmpeg does)

    def _encoding(self) -> list[str]:
        raise NotImplementedError

    def write(self, frames: Frames) -> None:
        _check(frames)
        if self._process is None:
            self._process = self._start(*frames.shape[1:3])
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frames).data)
        except OSError as error:
            raise self._failure() from error

    def close(self) -> None:
        assert self._process is not None and self._process.stdin is not None, "a video needs at least one frame"
        with contextlib.suppress(BrokenPipeError):  # the exit status is checked below
            self._process.stdin.close()
        if self._process.wait() != 0:
            raise self._failure()
        self._errors.close()
        self._publish()

    def discard(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        super().discard()

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self.fps), "-i", "-"]
        target = [*self._encoding(), "-f", self.container, str(self.temporary)]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-nostdin", *source, "-an", *target]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors)

    def _failure(self) -> UserError:
        assert self._process is not None
        status = self._process.wait()
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace").strip()
        lines = why_not_written(OSError(errors)).splitlines() or [f"exit status {status}"]
        return UserError(f"ffmpeg could not write {self.path}: {lines[-1]}; free space, or give a folder that can be written")


class Mp4Writer(_FfmpegWriter):
    """H.264, yuv420p, so that every player shows it; sides are padded to even numbers.

    Args:
        quality: 1 (smallest file) to 10 (no loss but that of the colours' resolution).
    """

    container = "mp4"

    def __init__(self, path: str | Path, *, fps: float, quality: float = 8, overwrite: bool = False) -> None:
        super().__init__(path, fps=fps, overwrite=overwrite)
        if not 1 <= quality <= 10:
            raise UserError(f"the quality of an mp4 is from 1 to 10, not {quality}")
        self.quality = quality

    def _encoding(self) -> list[str]:
        rate_factor = round(51 * (1 - self.quality / 10))  # x264 knows 0, the best, to 51
        even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
        picture = ["-vf", even, "-pix_fmt", "yuv420p"]
        return ["-c:v", "libx264", "-crf", str(rate_factor), *picture, "-movflags", "+faststart"]


class GifWriter(_FfmpegWriter):
    """An animation with a palette of its own for every frame, so that it can be written as it comes."""

    container = "gif"

    def _encoding(self) -> list[str]:
        return ["-filter_complex", "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"]


class NpzWriter(_Writer):
    """One array `video`, uint8 (t, h, w, 3), as numpy.load reads it; frames lie in a raw file until their number is known."""

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        super().__init__(path, overwrite=overwrite)
        self._raw = self.temporary.with_name(self.temporary.name + ".raw")
        self._file = self._raw.open("wb")
        self._count, self._shape = 0, (0, 0)

    def write(self, frames: Frames) -> None:
        _check(frames)
        self._file.write(np.ascontiguousarray(frames).data)
        self._count += len(frames)
        self._shape = frames.shape[1:3]

    def close(self) -> None:
        self._file.close()
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape, 3)}
        with (
            zipfile.ZipFile(self.temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("video.npy", "w", force_zip64=True) as entry,
            self._raw.open("rb") as raw,
        ):
            np.lib.format.write_array_header_1_0(entry, header)
            shutil.copyfileobj(raw, entry, 1 << 20)
        self._raw.unlink()
        self._publish()

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # the last bytes may not fit either
            self._file.close()
        remove(self._raw)
        super().discard()


class PngWriter(_Writer):
    """A folder with 000000.png, 000001.png, ..."""

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        super().__init__(path, overwrite=overwrite)
        remove(self.temporary)
        self.temporary.mkdir()
        self._count = 0

    def write(self, frames: Frames) -> None:
        _check(frames)
        for frame in frames:
            Image.fromarray(frame).save(self.temporary / f"{self._count:06d}.png")
            self._count += 1

    def close(self) -> None:
        self._publish()


class ContactSheet:
    """Every `every`-th frame of several videos in one PNG: a row is a video."""

    def __init__(self, path: str | Path, *, every: int, overwrite: bool = False) -> None:
        self.path, self.every, self.overwrite = Path(path), every, overwrite
        self._rows: dict[int, list[np.ndarray]] = {}
        self._seen: dict[int, int] = {}

    def write(self, row: int, frames: Frames) -> None:
        _check(frames)
        seen = self._seen.get(row, 0)
        self._rows.setdefault(row, []).extend(frame.copy() for frame in frames[-seen % self.every :: self.every])
        self._seen[row] = seen + len(frames)

    def close(self, *, gap: int = 2) -> None:
        """Draw the sheet, white between the frames."""
        rows = [self._rows[row] for row in sorted(self._rows)]
        height, width = rows[0][0].shape[:2]
        columns = max(len(row) for row in rows)
        sheet = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
        for i, row in enumerate(rows):
            for j, frame in enumerate(row):
                top, left = i * (height + gap), j * (width + gap)
                sheet[top : top + height, left : left + width] = frame
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(self.path)
        try:
            with _named(self.path):
                Image.fromarray(sheet).save(temporary, format="png")
            _publish(temporary, self.path, overwrite=self.overwrite)
        finally:
            remove(temporary)


class VideoFiles:
    """One video in several formats at once; all of its files appear on a clean exit, none after an error."""

    def __init__(self, writers: Sequence[VideoWriter], on_frames: Callable[[Frames], None] | None = None) -> None:
        self._writers, self._on_frames = list(writers), on_frames

    def write(self, frames: Frames) -> None:
        for writer in self._writers:
            with _named(writer.path):
                writer.write(frames)
        if self._on_frames is not None:
            self._on_frames(frames)

    def __enter__(self) -> VideoFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                while self._writers:
                    with _named(self._writers[0].path):
                        self._writers[0].close()
                    self._writers.pop(0)
        finally:
            for writer in self._writers:
                writer.discard()


def paths_for(folder: Path, name: str, formats: Sequence[str]) -> dict[str, Path]:
    """Return the path of a video called `name` in each format; "frames" is a folder."""
    unknown = [format_ for format_ in formats if format_ not in FORMATS]
    if unknown or not formats:
        given = ", ".join(map(repr, unknown)) or "none at all"
        raise UserError(f"formats are {', '.join(FORMATS)}, separated by commas, not {given}")
    return {format_: folder / (name if format_ == "frames" else f"{name}.{format_}") for format_ in formats}


def open_writers(
    paths: dict[str, Path],
    *,
    fps: float,
    quality: float = 8,
    overwrite: bool = False,
    on_frames: Callable[[Frames], None] | None = None,
) -> VideoFiles:
    """Return writers for the paths of `paths_for`; `on_frames` is called with all frames that were written."""
    make: dict[str, Callable[[Path], VideoWriter]] = {
        "mp4": lambda path: Mp4Writer(path, fps=fps, quality=quality, overwrite=overwrite),
        "gif": lambda path: GifWriter(path, fps=fps, overwrite=overwrite),
        "npz": lambda path: NpzWriter(path, overwrite=overwrite),
        "frames": lambda path: PngWriter(path, overwrite=overwrite),
    }
    with contextlib.ExitStack() as stack:  # of those that were opened before one that could not be
        writers: list[VideoWriter] = []
        for format_, path in paths.items():
            with _named(path):
                writers.append(make[format_](path))
            stack.callback(writers[-1].discard)
        stack.pop_all()
    return VideoFiles(writers, on_frames)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in the system's error, such as a full disk."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {why_not_written(error)}; free space or choose another folder") from error


def _check(frames: Frames) -> None:
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3, f"uint8 (k, h, w, 3), not {frames.shape}"


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Rename; refuse to replace what exists unless allowed, and a folder with other files than frames in any case."""
    is_foreign = path.is_dir() and any(each.suffix != ".png" or each.is_dir() for each in path.iterdir())
    if path.exists() and (is_foreign or not overwrite):
        raise UserError(f"{path} exists and is kept; choose another folder or allow overwriting")
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)
