"""The audit hook refuses what it says, lets the legitimate pass, and is idle outside `audited`."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path

import pytest
import torch

from fuzz.audit import Refused, audited


def run_module(at: Path) -> None:
    (at / "in" / "foreign_module.py").write_text("made = 1")
    sys.path.insert(0, str(at / "in"))
    try:
        __import__("foreign_module")
    finally:
        sys.path.remove(str(at / "in"))


REFUSED: dict[str, Callable[[Path], object]] = {
    "a program": lambda at: subprocess.run(["true"]),
    "a shell": lambda at: os.system("true"),
    "a spawned program": lambda at: os.posix_spawn("/bin/true", ["true"], {}),
    "text as code": lambda at: eval("1 + 1"),
    "a file as code": lambda at: exec(compile("1", str(at / "a.py"), "exec")),
    "a foreign module": run_module,
    "an unpickled name": lambda at: pickle.loads(pickle.dumps(Path("a"))),
    "a foreign library": lambda at: ctypes.CDLL(str(at / "in" / "a.so")),
    "a server": lambda at: socket.socket().bind(("127.0.0.1", 0)),
    "a client": lambda at: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "a new file": lambda at: (at / "out.txt").write_text("a"),
    "an opened file": lambda at: os.open(at / "there.txt", os.O_WRONLY),
    "a removed file": lambda at: (at / "there.txt").unlink(),
    "a file moved out": lambda at: shutil.copyfile(at / "there.txt", at / "in" / "x") and os.rename(at / "in" / "x", at / "x"),
    "a folder": lambda at: (at / "new").mkdir(),
    "a link": lambda at: (at / "link").symlink_to("in"),
    "a removed folder": lambda at: shutil.rmtree(at / "other"),
    "a file through a link": lambda at: ((at / "in" / "l").symlink_to(at), (at / "in" / "l" / "y").write_text("a")),
    "a secret": lambda at: (at / "secret").read_text(),
}

ALLOWED: dict[str, Callable[[Path], object]] = {
    "a file within": lambda at: (at / "in" / "a.txt").write_text("a"),
    "a folder within": lambda at: (at / "in" / "b" / "c").mkdir(parents=True),
    "removing within": lambda at: shutil.rmtree(at / "in"),
    "reading elsewhere": lambda at: (at / "there.txt").read_text(),
    "a folder that is there": lambda at: (at / "other").mkdir(exist_ok=True),
    "a module of Python": lambda at: __import__("colorsys"),
    "a dataclass": lambda at: make_dataclass("Point", ["x"])(1),
    "a named tuple": lambda at: namedtuple("Point", ["x"])(1),
    "tensors": lambda at: torch.save({"a": torch.zeros(1)}, at / "in" / "t") or torch.load(at / "in" / "t", weights_only=True),
}


@pytest.fixture
def at(tmp_path: Path) -> Path:
    for folder in ("in", "other"):
        (tmp_path / folder).mkdir()
    for name in ("there.txt", "secret"):
        (tmp_path / name).write_text("content")
    return tmp_path


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what: str, at: Path) -> None:
    with audited(at / "in", secrets=(at / "secret",)) as violations, pytest.raises(Refused):
        REFUSED[what](at)
    assert violations
    assert (at / "there.txt").read_text() == "content" and (at / "other").is_dir()
    assert {path.name for path in at.iterdir()} == {"in", "other", "there.txt", "secret"}
    sys.modules.pop("foreign_module", None)


@pytest.mark.parametrize("what", ALLOWED)
def test_it_lets_pass(what: str, at: Path) -> None:
    with audited(at / "in", secrets=(at / "secret",)) as violations:
        ALLOWED[what](at)
    assert not violations


def test_what_libraries_in_c_open_is_seen_afterwards(at: Path) -> None:
    with audited(at / "in") as violations:
        store = torch.distributed.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False)
    assert any("holds socket" in each for each in violations)
    del store


def test_outside_it_is_idle(at: Path) -> None:
    with audited(at / "in") as before:
        pass
    assert subprocess.run(["true"]).returncode == 0 and eval("1 + 1") == 2
    (at / "out.txt").write_text("a")
    assert not before


def test_recording_alone_lets_things_happen(at: Path) -> None:
    with audited(at / "in", block=False) as violations:
        (at / "out.txt").write_text("a")
    assert len(violations) == 1 and "out.txt" in violations[0] and (at / "out.txt").exists()
