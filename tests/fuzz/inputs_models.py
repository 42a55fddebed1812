"""Inputs of binary kinds: model files, checkpoints of ours and of others, configs with their overrides."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.cases import Case
from fuzz.inputs_good import configs
from fuzz.mutations import Draw, config_text, damaged, mutated, one_bit_off, override

SCORED = ("--fake", "@MADE@/clips.npy", "--protocol", "tats", "--features", "random", "--feature-width", "0.03125")
SCORED += ("--allow-fewer", "--no-cache", "--set", "frames=9", "resolution=16")
CONFIG = "@AT@/c.yaml"
AROUND = {  # what stands around a config on the command line
    "train": ("train", (CONFIG,), ("--dry-run",)),
    "shipped": ("train", (CONFIG,), ("--dry-run",)),
    "encode": ("encode", (CONFIG,), ()),
    "benchmark": ("benchmark", (CONFIG,), ("--stage", "encode", "--steps", "1", "--warmup", "0", "--device", "cpu")),
    "convert": (
        "convert",
        ("@MADE@/published.ckpt", "--from", "lvdm", "--raw", "--out", "@AT@/m.safetensors", "--config", CONFIG),
        (),
    ),
    "eval": ("eval", ("--real", CONFIG), SCORED),
}


@st.composite
def configured(draw: Draw, kind: str) -> Case:
    """A command with a mutated config, or a good one with a mutated override."""
    command, before, after = AROUND[kind]
    tree = draw(st.sampled_from(configs()[kind]))
    takes_overrides = kind != "eval"
    if takes_overrides and draw(st.integers(0, 5)) == 0:
        settings, content = (draw(override(tree)),), json.dumps(tree).encode()
    else:
        settings, content = (), draw(config_text(tree))
    return Case(command, (*before, *settings, *after), {"c.yaml": content})


# Model files ---------------------------------------------------------------------------------------------------------------

MODEL_COMMANDS = [
    ("load", ("{}",)),
    ("sample_short", ("{}", "--num", "1", "--steps", "1", "--format", "npz", "--out", "@AT@/o")),
    ("sample_long", ("--predict", "{}", "--frames", "20", "--num", "1", "--steps", "1", "--format", "npz", "--out", "@AT@/o")),
]


@cache
def content(path: Path) -> bytes:
    return path.read_bytes()


def split(model: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes of its tensors."""
    size = int.from_bytes(model[:8], "little")
    return json.loads(model[8 : 8 + size]), model[8 + size :]


def joined(header: Any, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors


@st.composite
def model_file(draw: Draw, made: Path) -> Case:
    """A model file with another description, another header, or damaged bytes."""
    whole = content(made / "joint" / "model.safetensors")
    header, tensors = split(whole)
    kind = draw(st.sampled_from(["description"] * 5 + ["metadata", "header", "bytes", "head", "text"]))
    if kind == "description":
        described = draw(mutated(json.loads(header["__metadata__"]["lvdm"])))
        header["__metadata__"]["lvdm"] = json.dumps(described, default=str)
    elif kind == "text":
        texts = ["", "3", "null", "[]", "{", "[" * 5000, '{"kind": "diffusion"}', "1" * 5000, '{"a": NaN}', "\\ud800"]
        header["__metadata__"][draw(st.sampled_from(sorted(header["__metadata__"])))] = draw(st.sampled_from(texts))
    elif kind == "metadata":
        header["__metadata__"] = {str(k): str(v) for k, v in draw(mutated(header["__metadata__"])).items()}
    elif kind == "header":
        header = json.loads(json.dumps(draw(mutated(header)), default=str))
    made_bytes = joined(header, tensors)
    if kind in ("bytes", "head"):
        made_bytes = draw(damaged(whole, stop=None if kind == "bytes" else len(whole) - len(tensors)))
    command, arguments = draw(st.sampled_from(MODEL_COMMANDS))
    return Case(command, tuple(each.format("@AT@/m.safetensors") for each in arguments), {"m.safetensors": made_bytes})


@st.composite
def model_damage(draw: Draw, made: Path) -> Case:
    """A single flipped bit: half of them in the header, which is small."""
    whole = content(made / "joint" / "model.safetensors")
    head = len(whole) - len(split(whole)[1])
    changed = draw(one_bit_off(whole, draw(st.sampled_from([None, head]))))
    return Case("intact", ("@AT@/m.safetensors", "@MADE@/joint/model.safetensors"), {"m.safetensors": changed})


# Checkpoints ---------------------------------------------------------------------------------------------------------------

GLOBALS = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr")]
GLOBALS += [("torch", "load"), ("torch.hub", "load"), ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")]
GLOBALS += [("torch", "FloatStorage"), ("pathlib", "Path"), ("numpy", "load"), ("functools", "partial"), ("a\nb", "c"), ("", "")]


def constants() -> st.SearchStrategy[bytes]:
    """Opcodes that push something."""
    texts = st.sampled_from(["touch BOOM", "state_dict", "__import__('os').system('touch BOOM')", ""])
    return st.one_of(
        st.sampled_from(
            [
                b"N",
                b"\x88",
                b"\x89",
                b")",
                b"]",
                b"}",
                b"\x8f",
                b"(",
                b"K\x07",
                b"\x8a\x05\xff\xff\xff\xff\x7f",
                b"G" + b"\x7f" * 8,
            ]
        ),
        texts.map(lambda text: b"X" + len(text).to_bytes(4, "little") + text.encode()),
        st.sampled_from(GLOBALS).map(lambda name: f"c{name[0]}\n{name[1]}\n".encode()),
        st.binary(max_size=4).map(lambda data: b"C" + bytes([len(data)]) + data),
    )


def operations() -> st.SearchStrategy[bytes]:
    """Opcodes that take from the stack or the memo."""
    simple = [
        b"R",
        b"b",
        b"\x81",
        b"\x92",
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"l",
        b"d",
        b"a",
        b"e",
        b"s",
        b"u",
        b"0",
        b"1",
        b"2",
        b"Q",
        b"\x94",
    ]
    memo = st.integers(0, 3).flatmap(lambda n: st.sampled_from([b"h" + bytes([n]), b"q" + bytes([n]), b"r\xff\xff\xff\x7f"]))
    return st.one_of(st.sampled_from(simple), memo)


def doubling(times: int) -> bytes:
    """A list of two of a list of two ...: `times` bytes of it are 2**times objects for whoever copies them."""
    return b"]q\x00" + b"".join(b"]q" + bytes([n + 1]) + b"(" + (b"h" + bytes([n])) * 2 + b"e" for n in range(times))


SHAPES = {
    "doubling": lambda: b"\x80\x02}" + b"X\x0a\0\0\0state_dict" + doubling(60) + b"s.",
    "deep": lambda: b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "mark": lambda: b"\x80\x02" + b"(" * 100_000 + b".",
    "frame": lambda: b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
    "bytes": lambda: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "itself": lambda: b"\x80\x02}q\0X\x0a\0\0\0state_dicth\0s.",
    "system": lambda: b"\x80\x02cposix\nsystem\nX\x0a\0\0\0touch BOOM\x85R.",
    "hashing": lambda: pickle.dumps({"state_dict": {i * (2**61 - 1): 0 for i in range(9_000)}}, 2),
}


@st.composite
def pickled(draw: Draw) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return SHAPES[draw(st.sampled_from(sorted(SHAPES)))]()
    return b"\x80\x02" + b"".join(draw(st.lists(st.one_of(constants(), operations()), max_size=25))) + b"."


@cache
def bomb(mebibytes: int) -> bytes:
    """A zip of a pickle that inflates to so much."""
    with io.BytesIO() as file:
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("a/data.pkl", "w") as entry,
        ):
            entry.write(b"\x80\x02X" + (mebibytes << 20).to_bytes(4, "little"))
            for _ in range(mebibytes):
                entry.write(bytes(1 << 20))
            entry.write(b".")
        return file.getvalue()


def rezipped(original: bytes, replaced: dict[str, bytes | None]) -> bytes:
    """A checkpoint with other entries; None leaves one out."""
    with zipfile.ZipFile(io.BytesIO(original)) as archive, io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as written:
            for name in archive.namelist():
                part = name.split("/", 1)[1]
                entry = replaced.get(part, archive.read(name))
                if entry is not None:
                    written.writestr(name, entry)
        return file.getvalue()


@st.composite
def checkpoint(draw: Draw, made: Path) -> Case:
    """A checkpoint for `train --resume`, its reader alone, or `convert`, with another pickle inside, or damaged."""
    last, published = content(made / "joint" / "checkpoints" / "last.ckpt"), content(made / "published.ckpt")
    is_ours = draw(st.booleans())
    original = last if is_ours else published
    kind = draw(st.sampled_from(["pickle", "pickle", "pickle", "inside", "bytes", "entry", "bare", "bomb"]))
    if kind == "pickle":
        made_bytes = rezipped(original, {"data.pkl": draw(pickled())})
    elif kind == "inside":
        with zipfile.ZipFile(io.BytesIO(original)) as archive:
            inner = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        made_bytes = rezipped(original, {"data.pkl": draw(damaged(inner))})
    elif kind == "entry":
        entries = ["data.pkl", "byteorder", "version", "data/0", ".format_version", ".data/serialization_id"]
        made_bytes = rezipped(original, {draw(st.sampled_from(entries)): draw(st.sampled_from([None, b"", b"big", bytes(99)]))})
    elif kind == "bare":
        made_bytes = draw(pickled())
    else:
        made_bytes = bomb(256) if kind == "bomb" else draw(damaged(original))
    if is_ours and draw(st.integers(0, 3)):
        return Case("resume", ("@AT@/x.ckpt",), {"x.ckpt": made_bytes})
    if is_ours:
        config = json.dumps(configs()["train"][0]).encode()
        return Case("train", (CONFIG, "--resume", "@AT@/x.ckpt", "trainer.max_steps=3"), {"x.ckpt": made_bytes, "c.yaml": config})
    command, before, after = AROUND["convert"]
    arguments = ("@AT@/x.ckpt", *before[1:], *after)
    return Case(command, arguments, {"x.ckpt": made_bytes, "c.yaml": json.dumps(configs()["convert"][0]).encode()})


@st.composite
def checkpoint_damage(draw: Draw, made: Path) -> Case:
    original = content(made / "joint" / "checkpoints" / "last.ckpt")
    arguments = ("@AT@/x.ckpt", "@MADE@/joint/checkpoints/last.ckpt")
    return Case("intact_checkpoint", arguments, {"x.ckpt": draw(one_bit_off(original))})
