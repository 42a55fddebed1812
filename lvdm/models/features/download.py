"""Fetching a file: resumable, bounded in size and time, checked before it takes its place.

`torch.hub.download_url_to_file` checks a hash, but it cannot resume, has no limits, and takes whatever comes if no hash is known.
What came so far lies in `.part.NAME`, and in `.part.NAME.json` which file of the server it is a part of.
LVDM_DOWNLOAD_GB (8) and LVDM_DOWNLOAD_MINUTES (120) bound the size and the time of one file.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPResponse
from pathlib import Path

from tqdm import tqdm

from lvdm.files import locked
from lvdm.types import UserError

TIMEOUT = 15  # seconds without an answer
BLOCK = 1 << 20  # bytes


class BadContent(OSError):
    """The received content is not the expected file, so there is nothing to resume."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one file."""

    gigabytes: float = 8.0
    minutes: float = 120.0

    @staticmethod
    def read() -> Limits:
        """Return those of the environment."""
        return Limits(_positive("LVDM_DOWNLOAD_GB", Limits.gigabytes), _positive("LVDM_DOWNLOAD_MINUTES", Limits.minutes))


@dataclass(frozen=True)
class _Source:
    """The file on a server that a part belongs to. The download resumes only if all of this is unchanged."""

    url: str
    size: int | None  # bytes of the whole file
    version: str | None  # its ETag, else the time of its last change


def fetch(url: str, path: Path, *, check: Callable[[Path], object]) -> None:
    """Make `path` the file of an address, or raise OSError; others see no file or the whole one.

    Args:
        check: raises OSError or UserError if the content is not what was wanted.
    """
    limits = Limits.read()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part.{path.name}")  # with the ending that tells how to read it
    with locked(part.with_name(f"{part.name}.lock")):  # many processes that start together download it once
        if path.is_file():  # another process was faster
            return
        try:
            _receive(url, part, limits)
            _check(part, check)
            os.replace(part, path)
        except BadContent:
            part.unlink(missing_ok=True)
            raise
        finally:
            if not part.exists() or part.stat().st_size == 0:
                part.unlink(missing_ok=True)
                _facts_of(part).unlink(missing_ok=True)


def _check(part: Path, check: Callable[[Path], object]) -> None:
    try:
        check(part)
    except (OSError, UserError) as error:
        raise BadContent(f"another file came: {error}") from error


def _receive(url: str, part: Path, limits: Limits) -> None:
    """Download what is missing of the part; drop a part if the file has changed on the server since."""
    known = _known(part)
    have = part.stat().st_size if known is not None and known.url == url and part.exists() else 0
    if have and known and known.size == have:
        return
    with _open(url, have, known) as answer:
        source = _source(answer, url)
        if answer.status != 206 or (source == known and _first_byte(answer) == have):
            _copy(answer, part, have if answer.status == 206 else 0, source, limits)
            return
    with _open(url, 0, None) as answer:
        _copy(answer, part, 0, _source(answer, url), limits)


def _open(url: str, have: int, known: _Source | None) -> HTTPResponse:
    headers = {"User-Agent": "lvdm", "Accept-Encoding": "identity"}
    if have and known is not None:
        headers["Range"] = f"bytes={have}-"
        if known.version is not None and not known.version.startswith("W/"):  # weak ones tell no bytes apart
            headers["If-Range"] = known.version
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
    return _open(url, 0, None)  # the part is longer than the file


def _source(answer: HTTPResponse, url: str) -> _Source:
    if answer.headers.get_content_type() == "text/html":
        raise OSError("a page of text came instead of the file")  # of a hotel's network, say: what came before stays
    size = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return _Source(
        url, int(size) if size.isdecimal() else None, answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    )


def _first_byte(answer: HTTPResponse) -> int:
    first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdecimal() else -1


def _copy(answer: HTTPResponse, part: Path, start: int, source: _Source, limits: Limits) -> None:
    if source.size is not None and source.size > limits.gigabytes * 1e9:
        raise OSError(_too_large(limits))
    _facts_of(part).write_text(json.dumps(asdict(source)))
    end, size = time.monotonic() + 60 * limits.minutes, start
    with part.open("r+b" if start else "wb") as out, _bar(part, start, source.size) as bar:
        out.seek(start)
        while block := answer.read1(BLOCK):  # read would wait for a whole block from a slow server
            size += len(block)
            if size > limits.gigabytes * 1e9:
                raise BadContent(_too_large(limits))
            bar.update(out.write(block))
            if time.monotonic() > end:
                raise OSError(
                    f"it took more than {limits.minutes:g} minutes; the part is kept: start again to resume, or raise "
                    "LVDM_DOWNLOAD_MINUTES"
                )
        out.flush()
        os.fsync(out.fileno())
    if source.size is not None and size < source.size:
        raise OSError(f"only {size} of {source.size} bytes came; the part is kept: start again to resume")
    if source.size is not None and size > source.size:
        raise BadContent(f"{size} bytes came of a file of {source.size}")


def _too_large(limits: Limits) -> str:
    return f"it is larger than {limits.gigabytes:g} GB; raise LVDM_DOWNLOAD_GB if that is right"


def _bar(part: Path, start: int, size: int | None) -> tqdm:
    return tqdm(total=size, initial=start, unit="B", unit_scale=True, desc=part.name.removeprefix(".part."), delay=1)


def _known(part: Path) -> _Source | None:
    with suppress(OSError, ValueError, TypeError):
        return _Source(**json.loads(_facts_of(part).read_text()))
    return None


def _facts_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _positive(name: str, default: float) -> float:
    text = os.environ.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise UserError(f"{name} is {text!r}, expected a number above 0")
    return value
