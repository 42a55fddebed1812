"""Tar shards made to hurt: their members are broken videos, or the shard is refused in one sentence."""

from __future__ import annotations

import io
import os
import tarfile
import time
from pathlib import Path

import pytest
from video_files import GOOD, reasons_of, write_good

from lvdm.data import TarShards
from lvdm.types import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_good(tmp_path / "set")


def member(name: str, content: bytes = b"", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content


def write_shard(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path.parent


def test_members_that_are_no_plain_files_are_broken_videos(root: Path) -> None:
    mp4 = (root / "good0.mp4").read_bytes()
    members = [member(f"good{i}.mp4", mp4) for i in range(GOOD)]
    members += [
        member("link.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.mp4", type=tarfile.LNKTYPE, linkname="good0.mp4"),
        member("device.mp4", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member("pipe.mp4", type=tarfile.FIFOTYPE),
        member("/absolute.mp4", mp4),
        member("../up.mp4", mp4),
        member("twice.mp4", mp4),
        member("twice.mp4", mp4),
        member(os.fsdecode(b"caf\xe9.mp4"), mp4),
        *(each for i, label in enumerate(("-1", "9" * 30, "9" * 5000, "²", "x")) for each in (
            member(f"label{i}.mp4", mp4), member(f"label{i}.cls", label.encode()))),
        member("deep.mp4", mp4),
        member("deep.json", b"[" * 100_000),
        member("list.mp4", mp4),
        member("list.json", b"[]"),
        member("bytes.mp4", mp4),
        member("bytes.txt", b"\xff"),
    ]  # fmt: skip
    shards = write_shard(root.parent / "shards" / "0.tar", members)
    os.symlink("0.tar", shards / "again.tar")
    for _ in range(2):  # from the tar, and from the notes
        reasons = reasons_of(shards, layout=TarShards())
        names = ["link", "hard", "device", "pipe", "/absolute", "../up", "twice", "caf\\udce9", *(f"label{i}" for i in range(5))]
        assert set(reasons) == {f"0.tar/{name}" for name in [*names, "deep", "list", "bytes"]}


@pytest.mark.parametrize("kind", ["size", "negative", "sparse", "chain", "pipe", "nowhere"])
def test_a_shard_that_cannot_be_listed_is_one_sentence(kind: str, root: Path) -> None:
    shard = root.parent / "shards" / "0.tar"
    shard.parent.mkdir()
    if kind in ("size", "negative", "sparse"):
        pax = {
            "size": {"size": str(2**60)},
            "negative": {"size": "-512"},
            "sparse": {"GNU.sparse.map": "0,x"},
        }
        info, content = member("a.mp4", bytes(1024))
        info.pax_headers = pax[kind]
        with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info, io.BytesIO(content))
    elif kind == "chain":  # a long name for a long name for a long name
        shard.write_bytes(member("././@LongLink", b"", type=b"L")[0].tobuf(tarfile.GNU_FORMAT) * 5000)
    elif kind == "pipe":
        os.mkfifo(shard)
    else:
        shard.symlink_to("absent.tar")
    started = time.monotonic()
    with pytest.raises(UserError, match="cannot read|none of the 1 shards") as error:
        TarShards().find(shard.parent)
    assert "\n" not in str(error.value) and time.monotonic() - started < 2
