"""Inputs of data sets: videos and images with their names and metadata, tables, lists, tar shards."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

from hypothesis import strategies as st

from fuzz.cases import SECRET, Case
from fuzz.inputs_models import content
from fuzz.mutations import Draw, damaged, mutated, values

MEDIA = ["a.mp4", "a.webm", "a.gif", "a.png", "a.jpg"]
STEMS = [
    "a",
    "²",
    "10",
    "1²",
    "a b",
    "-a",
    "%d",
    "a\nb",
    "a" * 200,
    ".a",
    "é",
    "e\u0301",
    "\udcff",
    "\udce9a",
    "0" * 60,
    "{a}",
    "*",
    "[a]",
]
SUFFIXES = [".mp4", ".webm", ".gif", ".png", ".jpg", ".avi", ".mov", ".MP4", "", ".mp4.mp4", ".jpeg", ".mkv"]
PLACES = [
    "../" + SECRET,
    "/etc/passwd",
    "~/a.mp4",
    "./0.mp4",
    "sub/../0.mp4",
    "sub/../../" + SECRET,
    "",
    ".",
    "..",
    "/",
    "//",
    "a\x00b",
]
PLACES += [
    "0.mp4",
    "0.mp4/",
    "0.mp4",
    "no.mp4",
    "x" * 5000,
    "\udcff.mp4",
    "file:///etc/passwd",
    "http://127.0.0.1:9/a.mp4",
    "pipe:0",
    "-",
]
LABELS = [
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    10**400,
    1.5,
    True,
    None,
    "",
    "0",
    " 1 ",
    "²",
    "١",
    "1e3",
    "nan",
    [],
    {},
    "0x1",
    "00",
    "-0",
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32-be"]


def safe(name: str) -> str:
    """A name that a file of the run's folder can have."""
    name = "/".join(part for part in name.replace("\x00", "").split("/") if part not in ("", ".", ".."))
    return name if 0 < len(os.fsencode(name)) < 250 else "x"


def huge_png(side: int) -> bytes:
    """A few bytes that declare a picture of side x side."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def huge_gif(side: int) -> bytes:
    return (
        b"GIF89a"
        + side.to_bytes(2, "little") * 2
        + b"\0\0\0"
        + b","
        + bytes(4)
        + side.to_bytes(2, "little") * 2
        + b"\0\2\2L\1\0;"
    )


SPECIAL = [
    "link:.",
    "link:..",
    "link:0.mp4",
    "link:itself.mp4",
    "link:/dev/zero",
    "fifo:",
    "folder:",
    "link:../" + SECRET,
    "link:/dev/null",
]


@st.composite
def medium(draw: Draw, made: Path) -> bytes | str:
    """The content of a video or image, mostly damaged."""
    kind = draw(st.sampled_from(["damaged"] * 6 + ["whole", "other", "special", "huge", "cut"]))
    whole = content(made / draw(st.sampled_from(MEDIA)))
    if kind == "damaged":
        return draw(damaged(whole, stop=draw(st.sampled_from([None, 64, 400]))))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole)))]
    if kind == "huge":
        return draw(st.sampled_from([huge_png, huge_gif]))(draw(st.sampled_from([9_000, 20_000, 65_535])))
    if kind == "special":
        return draw(st.sampled_from(SPECIAL))
    return (
        whole
        if kind == "whole"
        else draw(
            st.sampled_from(
                [
                    b"",
                    b"\x00" * 99,
                    b"%PDF-1.4",
                    b"#EXTM3U\nhttp://127.0.0.1:9/a.mp4\n",
                    b"ffconcat version 1.0\nfile /etc/passwd\n",
                ]
            )
        )
    )


@st.composite
def videos(draw: Draw, made: Path) -> Case:
    """A folder of videos with odd content, names, links and metadata."""
    files: dict[str, bytes | str] = {"v/0.mp4": content(made / "a.mp4"), "v/1.gif": content(made / "a.gif")}
    for number in range(draw(st.integers(1, 4))):
        stem, suffix = draw(st.one_of(st.sampled_from(STEMS), st.text(max_size=6))), draw(st.sampled_from(SUFFIXES))
        folder = draw(st.sampled_from(["v", "v", "v/s", f"v/{number}"]))
        files[f"{folder}/{safe(f'{stem}{suffix}')}"] = draw(medium(made))
    if draw(st.integers(0, 3)) == 0:
        files["v/metadata.jsonl"] = draw(json_lines("file"))
    settings = {"max_broken": 1.0, "clips_per_video": draw(st.sampled_from([1, 2, "all"]))}
    command = draw(st.sampled_from(["videos"] * 5 + ["encode", "check"]))
    if command == "videos":
        return Case("videos", ("@AT@/v", json.dumps(settings)), _without_clashes(files))
    node = {
        "target": "lvdm.data.VideoFolder",
        "params": {"root": "@AT@/v", "num_frames": 4, "size": 16, "time_limit": 5.0, **settings},
    }
    return command_on(node, command, _without_clashes(files))


def command_on(node: dict, command: str, files: dict[str, bytes | str]) -> Case:
    """`encode` or `train --check-data` on a data set."""
    from fuzz.inputs_good import configs

    tree = json.loads(json.dumps(configs()["encode" if command == "encode" else "train"][1 if command == "check" else 0]))
    if command == "encode":
        tree["data"] = {"train": node}
        return Case("encode", ("@AT@/c.yaml",), {**files, "c.yaml": json.dumps(tree).encode()})
    tree["data"]["params"]["train"] = node
    return Case("train", ("@AT@/c.yaml", "--check-data"), {**files, "c.yaml": json.dumps(tree).encode()})


def _without_clashes(files: dict[str, bytes | str]) -> dict[str, bytes | str]:
    """No file below a file."""
    folders = {parent for name in files for parent in _parents(name)}
    return {name: content for name, content in files.items() if name not in folders}


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


# Tables --------------------------------------------------------------------------------------------------------------------


def places() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(PLACES), st.text(max_size=6))


@st.composite
def json_lines(draw: Draw, key: str) -> bytes:
    """Lines of metadata: good ones, mutated ones, other text."""
    lines = []
    for number in range(draw(st.integers(1, 5))):
        good = {key: "0.mp4" if number == 0 else draw(places()), "caption": "two discs", "label": draw(st.sampled_from(LABELS))}
        kind = draw(st.sampled_from(["good", "good", "mutated", "other"]))
        if kind == "other":
            lines.append(
                draw(
                    st.sampled_from(
                        ["", "[]", "3", "null", "{", "{}", "[" * 3000, '{"a": ' * 3000, "9" * 5000, '"\\ud800"', "NaN"]
                    )
                )
            )
        else:
            lines.append(json.dumps(draw(mutated(good)) if kind == "mutated" else good, default=str, skipkeys=True))
    return encoded(draw, "\n".join(lines))


def encoded(draw: Draw, text: str) -> bytes:
    """Mostly UTF-8; else another encoding, or damaged."""
    kind = draw(st.sampled_from(["utf-8"] * 6 + [*ENCODINGS, "damaged"]))
    plain = text.encode("utf-8" if kind == "damaged" else kind, "replace" if kind == "latin-1" else "surrogatepass")
    return draw(damaged(plain)) if kind == "damaged" else plain


@st.composite
def csv_text(draw: Draw) -> bytes:
    columns = draw(st.permutations(["video", "caption", "label"]))
    if draw(st.integers(0, 4)) == 0:
        columns[draw(st.integers(0, 2))] = draw(
            st.one_of(st.text(max_size=4), st.sampled_from(["", "video", '"', "a" * 200_000]))
        )
    rows = [",".join(columns)]
    for number in range(draw(st.integers(0, 4))):
        cells = {
            "video": "0.mp4" if number == 0 else draw(places()),
            "caption": draw(st.text(max_size=5)),
            "label": str(draw(st.sampled_from(LABELS))),
        }
        row = [cells.get(column, "x") for column in columns]
        rows.append(",".join(row[: draw(st.integers(0, 3))] if draw(st.integers(0, 6)) == 0 else [f'"{each}"' for each in row]))
    return encoded(draw, draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])).join(rows))


@st.composite
def tables(draw: Draw, made: Path) -> Case:
    """A table or list of videos with odd paths, labels and encodings."""
    files: dict[str, bytes | str] = {"v/0.mp4": content(made / "a.mp4"), "v/1.gif": content(made / "a.gif")}
    kind = draw(st.sampled_from(["t.csv", "t.jsonl", "t.tsv", "list.txt", "metadata.jsonl"]))
    if kind == "list.txt":
        lines = draw(st.lists(st.one_of(st.sampled_from(["0.mp4", "0", "1"]), places()), max_size=5))
        return Case("listed", ("@AT@/v", "@AT@/list.txt"), {**files, "list.txt": encoded(draw, "\n".join(lines))})
    if kind == "metadata.jsonl":
        return Case("videos", ("@AT@/v", '{"max_broken": 1.0}'), {**files, "v/metadata.jsonl": draw(json_lines("file"))})
    text = draw(json_lines("video")) if kind == "t.jsonl" else draw(csv_text())
    text = text.replace(b",", b"\t") if kind == "t.tsv" else text
    settings = {"label": draw(st.sampled_from(["label", None, "caption"]))}
    if draw(st.integers(0, 4)) == 0:
        settings["video"] = draw(
            st.sampled_from(
                ["{video}", "{video}.mp4", "{0}", "{video!r}", "{", "{video", "}", "{}", "../{video}", "{label}/{video}"]
            )
        )
    if draw(st.integers(0, 4)):
        return Case("table", ("@AT@/v", f"@AT@/{kind}", json.dumps(settings)), {**files, kind: text})
    layout = {"target": "lvdm.data.VideoTable", "params": {"file": f"@AT@/{kind}", **settings}}
    node = {"target": "lvdm.data.VideoFolder", "params": {"root": "@AT@/v", "num_frames": 4, "size": 16, "layout": layout}}
    return command_on(node, draw(st.sampled_from(["encode", "check"])), {**files, kind: text})


# Shards --------------------------------------------------------------------------------------------------------------------

TYPES = [
    tarfile.REGTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.DIRTYPE,
    tarfile.GNUTYPE_SPARSE,
    b"x",
    b"L",
    b"g",
]


@st.composite
def member(draw: Draw, made: Path) -> tuple[bytes, bytes]:
    """A header and its content."""
    name = draw(st.sampled_from(["0", "1", "a/0", "../0", "/0", "é", "²", "a" * 90, ""])) + draw(
        st.sampled_from([".mp4", ".txt", ".cls", ".json", ".0.png", ".png", ".gif", "", ".mp4.json", "."])
    )
    text = st.one_of(
        st.sampled_from(LABELS).map(lambda label: json.dumps({"label": label, "caption": "a"})), values.map(repr), places()
    )
    body = draw(
        st.one_of(text.map(lambda t: t.encode("utf-8", "replace")), st.sampled_from([content(made / each) for each in MEDIA]))
    )
    info = tarfile.TarInfo(name)
    info.type = draw(st.sampled_from([tarfile.REGTYPE] * 8 + TYPES))
    info.linkname = draw(st.sampled_from(["", "0.mp4", "/etc/passwd", "../" + SECRET]))
    info.size = draw(st.sampled_from([len(body)] * 8 + [0, 1, 2**33 - 1, 2**62, -1, len(body) + 512]))
    info.mtime = draw(st.sampled_from([0, 0, 2**62]))
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"), body + bytes(-len(body) % 512)


@st.composite
def shards(draw: Draw, made: Path) -> Case:
    """A tar of odd members, or a good one that is damaged."""
    if draw(st.booleans()):
        whole = content(made / "shard.tar")
        text = draw(damaged(whole, stop=draw(st.sampled_from([None, 512]))))
    else:
        with io.BytesIO() as file:
            for header, body in draw(st.lists(member(made), min_size=1, max_size=5)):
                file.write(header + body)
            text = file.getvalue() + draw(st.sampled_from([bytes(1024), b"", bytes(512)]))
    files = {"v/s.tar": text}
    if draw(st.integers(0, 5)):
        return Case("shards", ("@AT@/v",), files)
    node = {
        "target": "lvdm.data.VideoFolder",
        "params": {"root": "@AT@/v", "num_frames": 4, "size": 16, "layout": {"target": "lvdm.data.TarShards"}},
    }
    return command_on(node, draw(st.sampled_from(["encode", "check"])), files)
