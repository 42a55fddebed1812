"""Videos, tables and shards made to hurt: each is a broken video that is skipped, counted and named in little time."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import GOOD, reasons_of, write_good, write_images, write_video

from lvdm.data import UCF101, ListSplit, TarShards, VideoFolder, VideoTable, limits
from lvdm.data.layouts.listing import find_videos
from lvdm.data.probing.probe_cache import FILE
from lvdm.data.reading.locations import natural_key
from lvdm.data.reading.readers import open_video
from lvdm.types import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_good(tmp_path / "set")


def png_of(width: int, height: int) -> bytes:
    """A header that declares this size, and a few pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def gif_of(width: int, height: int) -> bytes:
    frames = [Image.new("P", (4, 4), frame) for frame in range(4)]
    file = io.BytesIO()
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    content = bytearray(file.getvalue())
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def mp4_of(root: Path, width: int, height: int) -> bytes:
    """A whole video whose track and decoder declare another size."""
    content = bytearray((root / "good0.mp4").read_bytes())
    at = content.index(b"avc1", content.index(b"stsd"))
    content[at + 28 : at + 32] = struct.pack(">HH", width, height)
    return bytes(content)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9000, 30000, 65000])
def test_frames_of_a_huge_declared_size_are_refused_before_decoding(side: int, root: Path) -> None:
    (root / "images").mkdir()
    (root / "images" / "0.png").write_bytes(png_of(side, side))
    (root / "huge.gif").write_bytes(gif_of(side, side))
    reasons = reasons_of(root)
    assert set(reasons) == {"images", "huge.gif"} and limits.MAX_PIXELS == 2**26
    for reason in reasons.values():
        assert f"{side} x {side} pixels, more than 67,108,864" in reason or "decompression bomb" in reason


def test_a_video_file_of_a_huge_frame_is_refused(root: Path, monkeypatch) -> None:
    write_video(root / "large.mp4")
    assert reasons_of(root) == {}
    for name in ("large.mp4", FILE):
        (root / name).unlink()
    with monkeypatch.context() as patched:
        patched.setattr("lvdm.data.limits.MAX_PIXELS", 32 * 32 - 1)
        with pytest.raises(UserError, match="32 x 32 pixels, more than 1,023"):
            VideoFolder(root, num_frames=4, size=16).prepare()


def test_a_file_that_declares_more_frames_than_any_video_has_is_broken(root: Path) -> None:
    """Decord reserves memory for as many, and aborts the process if there is not enough."""
    write_video(root / "long.avi")
    content = bytearray((root / "long.avi").read_bytes())
    at = content.index(b"strh") + 40  # dwLength
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    (root / "long.avi").write_bytes(content)
    assert "it declares 4.29e+09 frames" in reasons_of(root)["long.avi"]


def test_a_gif_cut_anywhere_is_broken_or_gives_its_own_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.gif", length=6)
    content, whole = (tmp_path / "whole.gif").read_bytes(), open_video(tmp_path / "whole.gif").read(range(6))
    for cut in range(1, len(content), 7):
        (tmp_path / "cut.gif").write_bytes(content[:cut])
        try:
            video = open_video(tmp_path / "cut.gif")
            assert np.array_equal(video.read(range(video.num_frames)), whole[: video.num_frames])
        except UserError as error:
            assert "cut.gif" in str(error)


def test_names_that_are_not_utf8_or_hold_line_ends_break_no_file(root: Path) -> None:
    bad = os.fsdecode(b"caf\xe9.mp4")
    os.link(root / "good0.mp4", root / bad)
    os.link(root / "good0.mp4", root / "two\nlines \x1b[31m.mp4")
    (root / os.fsdecode(b"fold\xff")).mkdir()
    write_images(root / os.fsdecode(b"fold\xff") / "images", length=4)
    (root / "cut\n.mp4").write_bytes(b"")
    data = VideoFolder(root, num_frames=4, size=16, max_broken=0.9)
    assert set(data.usable.broken.reasons) == {"caf\\udce9.mp4", "fold\\udcff/images", "cut\n.mp4"}
    assert "two\nlines \x1b[31m.mp4" in data.names and len(data.names) == GOOD + 1
    data.record_skipped(root.parent / "skipped.txt")
    lines = (root.parent / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and sum("its name is not UTF-8; rename it" in line for line in lines) == 2
    assert all(line.isprintable() for line in lines) and len(data.fingerprint()) == 32
    json.loads((root / FILE).read_text())


def test_numbers_of_other_scripts_in_names_sort(tmp_path: Path) -> None:
    names = ["1²2.png", "²", "٣.png", "9" * 5000 + ".png", "10.png", "9.png"]
    assert sorted(names, key=natural_key).index("9.png") < sorted(names, key=natural_key).index("10.png")
    write_images(tmp_path / "clip", length=2)
    (tmp_path / "clip" / "frame0.png").rename(tmp_path / "clip" / "0²2.png")
    assert VideoFolder(tmp_path, num_frames=2, size=16).names == ["clip"]


def test_each_real_file_is_taken_once_under_its_own_name(root: Path, tmp_path: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    write_video(root / "a" / "b" / "x.mp4")
    (root / "a" / "b" / "round").symlink_to(root)  # to a folder that it lies in
    (root / "a" / "self").symlink_to(".")
    (root / "0_to_b").symlink_to("a/b")
    (root / "0.mp4").symlink_to("good0.mp4")
    (root / "00.mp4").symlink_to("0.mp4")
    write_images(tmp_path / "disk" / "images", length=4)
    (root / "elsewhere").symlink_to(tmp_path / "disk")
    (root / "elsewhere2").symlink_to(tmp_path / "disk" / "images")
    assert find_videos(root) == ["a/b/x.mp4", "elsewhere/images", "good0.mp4", "good1.mp4", "good2.mp4"]


def test_links_that_multiply_are_followed_once(tmp_path: Path) -> None:
    """2^30 paths to one video."""
    for level in range(30):
        (tmp_path / f"d{level}").mkdir()
        for name in ("l", "r"):
            (tmp_path / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    (tmp_path / "d30").mkdir()
    (tmp_path / "d30" / "x.mp4").write_bytes(b"")
    started = time.monotonic()
    assert find_videos(tmp_path) == ["d30/x.mp4"] and time.monotonic() - started < 2
    assert find_videos(tmp_path / "d0") == ["/".join("l" * 30) + "/x.mp4"]


def test_pipes_sockets_devices_and_dangling_links_are_never_opened(root: Path, monkeypatch) -> None:
    os.mkfifo(root / "pipe.mp4")
    os.mkfifo(root / "pipe.gif")
    monkeypatch.chdir(root)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.mp4")
        (root / "null.avi").symlink_to("/dev/null")
        (root / "nowhere.mp4").symlink_to("absent.mp4")
        write_images(root / "clip", length=6)
        (root / "clip" / "frame0.png").unlink()
        os.mkfifo(root / "clip" / "frame0.png")
        os.mkfifo(root / FILE)  # the notes of earlier looks
        reasons = reasons_of(root)
    assert set(reasons) == {"pipe.mp4", "pipe.gif", "socket.mp4", "null.avi", "nowhere.mp4", "clip"}
    assert sum("neither a file nor a folder" in reason for reason in reasons.values()) == 4
    assert "no regular file" in reasons["clip"]
    os.mkfifo(root / "metadata.jsonl")
    with pytest.raises(UserError, match="no regular file"):
        VideoFolder(root, num_frames=4, size=16).prepare()


PLAYLISTS = {
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other}\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile good0.mp4\n",
    "eps.gif": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_file_that_names_other_files_or_is_a_program_is_broken(name: str, root: Path) -> None:
    (root / name).write_text(PLAYLISTS[name].format(other=root / "good0.mp4"))
    assert set(reasons_of(root)) == {name}
    with pytest.raises(UserError, match=name):
        open_video(root / name).read([0])


def test_an_image_folder_with_a_program_is_broken(root: Path) -> None:
    (root / "clip").mkdir()
    (root / "clip" / "0.png").write_text(PLAYLISTS["eps.gif"])
    assert set(reasons_of(root)) == {"clip"}


def write_table(root: Path, rows: list[dict[str, object]]) -> Path:
    path = root.parent / "table.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_table_reads_nothing_outside_its_root(root: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "secret" / "x.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "secret" / "x.mp4")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "inner.mp4").symlink_to("good0.mp4")
    outside = [str(tmp_path / "secret" / "x.mp4"), "../secret/x.mp4", "folder/../../secret/x.mp4", "a/../../secret/x.mp4"]
    other = ["a\0.mp4", "a\ud800.mp4", "a\udcff.mp4", "x" * 300 + ".mp4", "good0.mp4/x.mp4"]
    linked = ["link.mp4", "inner.mp4"]  # as in a cache of the Hub, whose files are links to blobs elsewhere
    files = [*outside, *other, *(f"good{i}.mp4" for i in range(GOOD)), *linked, "folder/x.mp4", ""]
    rows = [{"video": file, "caption": f"c{i}"} for i, file in enumerate(files)]
    reasons = reasons_of(root, layout=VideoTable(write_table(root, rows)))
    assert len(reasons) == len(outside) + len(other) + 1
    assert all("it lies outside" in reasons[name] for name in outside)
    assert "holds a NUL" in reasons["a\0.mp4"] and "not UTF-8" in reasons["a\\ud800.mp4"]


def test_labels_and_captions_that_no_batch_can_hold_are_broken_videos(root: Path) -> None:
    labels = [3, 2**63 - 1, 2**63, 10**30, -1, None]
    for number in range(GOOD, 7):
        os.link(root / "good0.mp4", root / f"more{number}.mp4")
    names = ["good0.mp4", "good1.mp4", "more3.mp4", "more4.mp4", "more5.mp4", "good2.mp4"]
    rows = [{"video": name, "file": name, "caption": "c", "label": label} for name, label in zip(names, labels, strict=True)]
    rows += [{"video": "more6.mp4", "file": "more6.mp4", "caption": "\ud800", "label": 1}]
    table = write_table(root, rows)
    for options in ({"layout": VideoTable(table, label="label")}, {"metadata": table}):
        reasons = reasons_of(root, **options)
        assert set(reasons) == {"more3.mp4", "more4.mp4", "more5.mp4", "more6.mp4"}
        assert all("its label is no integer from 0" in reasons[f"more{i}.mp4"] for i in (3, 4, 5)), reasons
        assert "caption is not valid text" in reasons["more6.mp4"]


@pytest.mark.parametrize("label", ["²", "x" * 10000, "١٢٣x", "1e3", "--1"])
def test_a_label_that_is_no_class_breaks_its_video_and_a_column_without_any_is_refused(label: str, root: Path) -> None:
    table = root.parent / "t.csv"
    table.write_text(f"video,label\ngood0.mp4,{label}\ngood1.mp4,3\n")
    bad, good = VideoTable(table, caption=None, label="label").find(root)
    assert good.description.label == 3 and (bad.description.problem or "").startswith("its label is no integer from 0")
    table.write_text(f"video,label\ngood0.mp4,{label}\n")
    with pytest.raises(UserError, match="no label in column label of .*t.csv is an integer class from 0: .*line 2 of t.csv"):
        VideoTable(table, caption=None, label="label").find(root)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"file": "a.mp4", "label": ' + "9" * 5000 + "}", "\0", '{"file": 3}', "3"])
def test_lines_that_are_no_json_are_one_sentence(line: str, root: Path) -> None:
    for name in ("metadata.jsonl", "table.jsonl"):
        (root / name).write_text(line)
        with pytest.raises(UserError, match=f"line 1 of .*{name}"):
            VideoTable(root / name).find(root) if name == "table.jsonl" else VideoFolder(root, num_frames=4, size=16).prepare()


def test_patterns_that_are_none_are_one_sentence_that_names_the_key(root: Path) -> None:
    for pattern in ("/etc/*.tar", "", "a\0*", "../*.tar"):
        with pytest.raises(UserError, match=r"shards is|no shards"):
            TarShards(pattern).find(root)
    for pattern in ("{a}{", "{}", "{a}}", "{{a}}"):
        with pytest.raises(UserError, match="video is .* expected a column or a pattern"):
            VideoTable(root / "t.csv", video=pattern)


def test_lists_of_ucf101_and_splits_are_checked(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("../../v_Archery_g01_c01.avi 1\n/etc/v_Archery_g01_c02.avi 1\nv_Archery_g01_c\0.avi\n")
    for number in ("²", "9" * 5000):
        (lists / "classInd.txt").write_text(f"{number} Archery\n")
        with pytest.raises(UserError, match="is not UCF-101's list of classes"):
            UCF101("train").find(root)
    (lists / "classInd.txt").write_text("1 Archery\n")
    os.link(root / "good0.mp4", root / "v_Archery_g01_c01.avi")
    found = UCF101("train").find(root)
    assert all(video.location.parent == root for video in found) and len(found) == 3
    os.mkfifo(root.parent / "list.txt")
    with pytest.raises(UserError, match="no regular file"):
        ListSplit(root.parent / "list.txt").choose(["a"])


@pytest.mark.parametrize("content", [
    "[" * 100_000, "[]", '{"format": 1, "entries": []}', '{"format": 1, "entries": {"good0.mp4": 3}}', "\ud800",
])  # fmt: skip
def test_notes_that_came_with_the_data_are_made_anew_if_they_are_none(content: str, root: Path) -> None:
    (root / FILE).write_bytes(content.encode(errors="surrogatepass"))
    assert reasons_of(root) == {}


@pytest.mark.parametrize("look", [[], [1], "x", [24, 12.0, 10**9, 10**9], [-1, 1, 8, 8], [None] * 4, {"a": 1}, ["1", 1, 8, 8], 3])
def test_a_note_that_is_no_look_is_not_believed(look: object, root: Path) -> None:
    reasons_of(root)
    notes = json.loads((root / FILE).read_text())
    for entry in notes["entries"].values():
        entry[1] = look
    (root / FILE).write_text(json.dumps(notes))
    assert reasons_of(root) == {}


# Mutations


def test_damaged_files_of_every_kind_are_read_or_are_broken_videos(tmp_path: Path) -> None:
    """Flipped and cut bytes, seeded; shellscripts/fuzz.sh tries more."""
    rng = random.Random(0)
    for name in ("x.mp4", "x.avi", "x.gif", "x.mkv"):
        write_video(tmp_path / "whole" / name, length=6)
    write_images(tmp_path / "whole" / "png", length=1)
    Image.open(tmp_path / "whole" / "png" / "frame0.png").save(tmp_path / "whole" / "png" / "frame0.jpg")
    wholes = [path for path in sorted((tmp_path / "whole").rglob("*")) if path.is_file()]
    (tmp_path / "set").mkdir()
    for number in range(40):
        for whole in wholes:
            content = bytearray(whole.read_bytes())
            for _ in range(rng.choice((1, 4, 30))):
                content[rng.randrange(min(len(content), rng.choice((64, 4096))))] ^= 1 << rng.randrange(8)
            name = f"{whole.stem}{number}{whole.suffix}"
            target = tmp_path / "set" / (f"{name}/{name}" if whole.suffix in (".png", ".jpg") else name)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content[: rng.choice((len(content), rng.randrange(len(content))))])
    data = VideoFolder(tmp_path / "set", num_frames=1, size=8, max_broken=0.999, time_limit=5.0)
    for video in range(len(data.names)):
        try:
            data.read(video)
        except UserError as error:
            data.report_broken(video, error)
    assert data.usable.broken.total == 240 and 20 < len(data.usable.broken.reasons) < 240
