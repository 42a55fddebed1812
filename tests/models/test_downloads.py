"""Downloads from a server that stalls, lies, stops halfway and never ends: refused before they take their place, and resumed."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lvdm.models.features import download
from lvdm.models.features.weights import KNOWN, WeightsFile, find_weights, read_tensors
from lvdm.types import UserError


def saved(value: float, size: int = 5000) -> bytes:
    torch.save({"a": torch.full((size,), value)}, memory := io.BytesIO())
    return memory.getvalue()


GOOD = saved(1.0)


class Server(http.server.ThreadingHTTPServer):
    """One file; what goes wrong with it can be set."""

    content, etag, ranges, cut, kind = GOOD, '"1"', True, None, "application/octet-stream"
    length: bool = True  # whether Content-Length is said
    mode = "whole"  # or stall, endless

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []  # the ranges
        self.gave_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/x.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, span = self.server, self.headers.get("Range")
        server.asked.append(span)
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and server.ranges else 0
        if start and self.headers.get("If-Range", server.etag) != server.etag:
            start = 0
        if start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        body = server.content[start:]
        self.send_header("Content-Type", server.kind)
        if server.etag:
            self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body[: server.cut])
            self.wfile.flush()
            while server.mode == "endless":
                self.wfile.write(bytes(1 << 16))
            if server.mode == "stall":
                server.gave_up.wait(20)
        except OSError:
            pass
        return None

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.gave_up.set()
        made.shutdown()


@pytest.fixture
def folder(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LVDM_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("LVDM_OFFLINE", raising=False)
    monkeypatch.setitem(KNOWN, "x.pt", WeightsFile("x.pt", "a file of this test", (server.url,)))
    return tmp_path


def get() -> Path:
    return find_weights("x.pt", without="leave it")


def refused(match: str) -> None:
    with pytest.raises(UserError, match=f"x.pt is not there and could not be fetched from .*{match}") as error:
        get()
    assert "\n" not in str(error.value)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            b"",
            b"not weights",
            b"<html>a page</html>",
            GOOD[:-30],
            saved(1.0).replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x3e", 1),
        ),
    ],
    ids=["empty", "text", "a page", "cut", "one value of another size"],
)
def test_what_is_no_whole_checkpoint_never_takes_its_place(server, folder, wrong):
    server.content = wrong
    refused("416" if not wrong else "another file came: ")
    assert files(folder) == []


def test_weights_of_another_network_never_take_their_place(server, folder):
    def check(path: Path) -> None:
        if "b" not in read_tensors(path):
            raise UserError("b is missing")

    with pytest.raises(UserError, match=r"another file came: b is missing"):
        find_weights("x.pt", without="leave it", check=check)
    assert files(folder) == []


def test_a_page_of_text_and_a_wrong_hash_are_refused(server, folder, monkeypatch):
    server.kind = "text/html; charset=utf-8"
    refused("a page of text came")
    server.kind = "application/octet-stream"
    monkeypatch.setitem(KNOWN, "x.pt", WeightsFile("x.pt", "a file", (server.url,), "0" * 64))
    refused("another file came: its sha256 is")
    assert files(folder) == []
    monkeypatch.setitem(KNOWN, "x.pt", WeightsFile("x.pt", "a file", (server.url,), hashlib.sha256(GOOD).hexdigest()))
    assert get().read_bytes() == GOOD


# Resuming ------------------------------------------------------------------------------------------------------------------


def break_off(server: Server, folder: Path) -> None:
    server.cut = 9000
    refused(f"only 9000 of {len(GOOD)} bytes came; the part is kept")
    assert files(folder) == [".part.x.pt", ".part.x.pt.json"]
    server.cut = None


def test_what_broke_off_is_resumed(server, folder):
    break_off(server, folder)
    assert get().read_bytes() == GOOD and server.asked == [None, "bytes=9000-"] and files(folder) == ["x.pt"]


def test_a_server_without_ranges_gives_the_whole_file_again(server, folder):
    break_off(server, folder)
    server.ranges = False
    assert get().read_bytes() == GOOD and files(folder) == ["x.pt"]


@pytest.mark.parametrize("etag", ['"2"', None])
@pytest.mark.parametrize("content", [saved(2.0), saved(2.0, 9000), saved(2.0, 1000)], ids=["as long", "longer", "shorter"])
def test_a_file_that_has_changed_since_is_fetched_from_its_start(server, folder, content, etag):
    """By its ETag, else by its length; what is of the same length and has no ETag fails its sums, and comes at the next start."""
    server.etag = '"1"' if etag else None
    break_off(server, folder)
    server.content, server.etag = content, etag
    if etag is None and len(content) == len(GOOD):
        refused("another file came: .*damaged")
    assert get().read_bytes() == content and files(folder) == ["x.pt"]


def test_a_part_that_is_whole_is_checked_and_put_in_its_place(server, folder):
    """The process was killed between the last byte and the rename."""
    break_off(server, folder)
    (folder / ".part.x.pt").write_bytes(GOOD)
    assert get().read_bytes() == GOOD and server.asked == [None]


def test_a_damaged_part_is_noticed_and_dropped(server, folder):
    break_off(server, folder)
    part = folder / ".part.x.pt"
    part.write_bytes(part.read_bytes()[:5000] + b"damage" + part.read_bytes()[5006:])
    refused("another file came")
    assert files(folder) == [] and get().read_bytes() == GOOD


def test_processes_that_start_together_fetch_once(server, folder):
    with ThreadPoolExecutor(4) as pool:
        assert {path.read_bytes() for path in pool.map(lambda _: get(), range(4))} == {GOOD}
    assert len(server.asked) == 1 and files(folder) == ["x.pt"]


# Bounds --------------------------------------------------------------------------------------------------------------------


def test_a_server_that_stalls_is_left_and_resumed(server, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.mode, server.cut = "stall", 9000
    refused("timed out")
    assert (folder / ".part.x.pt").stat().st_size == 9000
    server.mode, server.cut = "whole", None
    assert get().read_bytes() == GOOD and server.asked[-1] == "bytes=9000-"


def test_a_stream_without_end_is_bounded_in_size_and_in_time(server, folder, monkeypatch):
    server.mode, server.length = "endless", False
    monkeypatch.setenv("LVDM_DOWNLOAD_GB", "0.003")
    refused("larger than 0.003 GB; raise LVDM_DOWNLOAD_GB")
    assert files(folder) == []
    monkeypatch.setenv("LVDM_DOWNLOAD_GB", "100")
    monkeypatch.setenv("LVDM_DOWNLOAD_MINUTES", "0.002")
    start = time.monotonic()
    refused("more than 0.002 minutes; .*LVDM_DOWNLOAD_MINUTES")
    assert time.monotonic() - start < 10


def test_a_size_that_is_announced_is_refused_at_once(server, folder, monkeypatch):
    monkeypatch.setenv("LVDM_DOWNLOAD_GB", "0.00001")
    refused("larger than 1e-05 GB")
    assert files(folder) == []


@pytest.mark.parametrize("value", ["much", "0", "-1", "nan"])
def test_a_bound_that_is_no_number_is_named(folder, monkeypatch, value):
    monkeypatch.setenv("LVDM_DOWNLOAD_GB", value)
    refused(f"LVDM_DOWNLOAD_GB is '{value}', expected a number above 0")
