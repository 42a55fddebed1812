"""Checkpoints and arrays made to hurt: each is refused, or read, in little time and memory, whatever it declares."""

from __future__ import annotations

import pickle
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lvdm.checkpoints import foreign, pickles
from lvdm.checkpoints.foreign import read_checkpoint
from lvdm.evaluation.sources.videos import open_source
from lvdm.models.features.weights import read_tensors
from lvdm.types import UserError


@pytest.fixture(autouse=True)
def little_time_and_memory() -> Iterator[None]:
    """Ten seconds, and a quarter of a GiB beyond what the process had."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18  # KiB


def zipped(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")  # else PyTorch's reader would refuse it at once
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def legacy(path: Path, data: bytes) -> Path:
    before = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join(before) + data + pickle.dumps([], 2))
    return path


def doubled(opening: bytes, closing: bytes, levels: int = 100) -> bytes:
    """A container that holds twice a container that holds twice ...: 2^levels paths in a few hundred bytes."""
    data = b"\x80\x04" + b"]\x940"  # remembered, and off the stack
    for level in range(levels):
        get = b"h" + bytes([level])
        data += opening + get + get + closing + b"\x940"
    return data + b"h" + bytes([levels])


LISTS = doubled(b"](", b"e")
TUPLES = doubled(b"(", b"t")
BOMBS = {
    "shared lists": b"\x80\x04}X\x01\x00\x00\x00a" + LISTS[2:] + b"s.",
    "shared tuples": b"\x80\x04}X\x01\x00\x00\x00a" + TUPLES[2:] + b"s.",
    "shared tuples as a key": b"\x80\x04}" + TUPLES[2:] + b"K\x01s.",
    "shared tuples in a set": b"\x80\x04}X\x01\x00\x00\x00a\x8f(" + TUPLES[2:] + b"\x90s.",
    "shared tuples as a storage's key": b"\x80\x04(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + TUPLES[2:] + b"NK\x01tQ.",
    "nested deeply": b"\x80\x04}X\x01\x00\x00\x00a" + b"]" * 50_000 + b"a" * 49_999 + b"s.",
    "a text of 2^60": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "an integer of a million bytes": b"\x80\x04\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".",
    "an integer of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "itself": b"\x80\x04}\x94X\x01\x00\x00\x00ah\x00s.",
    "a memo far away": b"\x80\x04}r\xff\xff\xff\xff.",
    "a bytearray of 2^40": b"\x80\x04cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("form", [zipped, legacy])
def test_a_small_pickle_takes_little_time_and_memory(form, name: str, tmp_path: Path) -> None:
    foreign_name = b"cbuiltins\nprint\n0"  # PyTorch's reader refuses the name, and leaves the file to ours
    path = form(
        tmp_path / "bomb.ckpt", BOMBS[name][:2] + foreign_name + BOMBS[name][2:] if BOMBS[name][:1] == b"\x80" else BOMBS[name]
    )
    try:
        assert set(read_checkpoint(path)) <= {"a"}
    except UserError as error:
        assert str(error).count("\n") == 0 and len(str(error)) < 500


def test_work_on_one_object_again_and_again_is_counted(tmp_path: Path) -> None:
    pairs = b"]\x94(" + b"K\x01K\x02\x86" * 10_000 + b"e\x85\x94"
    calls = b"ccollections\nOrderedDict\n\x94" + b"h\x02h\x01R0" * 10_000
    with pytest.raises(UserError, match="more than 2,000,000 opcodes"):
        read_checkpoint(zipped(tmp_path / "calls.ckpt", b"\x80\x04}" + pairs + calls + b"."))


def test_a_pickle_of_too_many_opcodes_or_bytes_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    with pytest.raises(UserError, match="more than 1,000 opcodes"):
        read_checkpoint(zipped(tmp_path / "long.ckpt", b"\x80\x04" + b"N0" * 1000 + b"}."))
    monkeypatch.setattr(foreign, "MAX_PICKLE", 1000)
    with pytest.raises(UserError, match="more than 1000"):
        read_checkpoint(zipped(tmp_path / "large.ckpt", b"\x80\x04" + b"N0" * 1000 + b"}."))


def test_a_compressed_entry_is_not_inflated(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bomb.ckpt", pickle.dumps({"a": 1}))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/byteorder", "w") as entry:
        for _ in range(400):
            entry.write(bytes(1 << 20))
    with pytest.raises(UserError, match="compressed or encrypted"):
        read_checkpoint(path)
    data = pickle.dumps({"a": bytes(100_000)})
    with pytest.raises(UserError, match="data.pkl is compressed"):
        read_checkpoint(zipped(tmp_path / "pickle.ckpt", data, compression=zipfile.ZIP_DEFLATED))


def test_an_archive_of_very_many_entries_is_refused_before_they_are_listed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lvdm.files.MAX_DIRECTORY", 10_000)
    path = zipped(tmp_path / "many.ckpt", pickle.dumps({}), {str(number): b"" for number in range(1000)})
    with pytest.raises(UserError, match="list of entries has more than 10000 bytes"):
        read_checkpoint(path)


def test_entries_that_overlap_or_share_a_name_are_refused(tmp_path: Path) -> None:
    torch.save({f"{i}": torch.full((1000,), float(i)) for i in range(3)}, tmp_path / "x.ckpt")
    content = bytearray((tmp_path / "x.ckpt").read_bytes())
    first, second = (content.rfind(b"x/data/%d" % i) - 46 for i in (0, 1))  # in the list of entries
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # where it lies
    (tmp_path / "overlap.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(tmp_path / "overlap.ckpt")
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "x.ckpt", "a") as archive:
        archive.writestr("x/data/0", b"")
    with pytest.raises(UserError, match="one name"):
        read_checkpoint(tmp_path / "x.ckpt")


def tensor(size: bytes, stride: bytes, *, offset: bytes = b"K\x00", count: int = 4) -> bytes:
    """A pickle of {"a": tensor} on a storage of `count` floats."""
    key = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + bytes([count]) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + key + offset + size + stride + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + call + b"s."


HUGE = b"\x8a\x06\0\0\0\0\0\x01"  # 2^40
MINUS = b"J\xff\xff\xff\xff"
TENSORS = {
    "expanded": tensor(HUGE + b"\x85", b"K\x00\x85"),
    "beyond the storage": tensor(b"K\x05\x85", b"K\x01\x85"),
    "negative stride": tensor(b"K\x02\x85", MINUS + b"\x85", offset=b"K\x03"),
    "negative size": tensor(MINUS + b"\x85", b"K\x01\x85"),
    "negative offset": tensor(b"K\x02\x85", b"K\x01\x85", offset=MINUS),
    "overflowing": tensor(HUGE + HUGE + HUGE + b"\x87", b"K\x00K\x00K\x00\x87"),
    "many dimensions": tensor(b"(" + b"K\x01" * 100 + b"t", b"(" + b"K\x01" * 100 + b"t"),
    "another count": tensor(b"K\x02\x85", b"K\x01\x85", count=200),
    "size of text": tensor(b"X\x01\x00\x00\x00a\x85", b"K\x01\x85"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_that_does_not_lie_in_its_storage_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(zipped(tmp_path / "x.ckpt", TENSORS[name], {"0": struct.pack("<4f", 1, 2, 3, 4)}))
    whole = zipped(tmp_path / "whole.ckpt", tensor(b"K\x02K\x02\x86", b"K\x01K\x02\x86"), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert read_checkpoint(whole)["a"].tolist() == [[1, 3], [2, 4]]


def test_a_changed_byte_of_a_weight_is_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "x.ckpt")
    content = bytearray((tmp_path / "x.ckpt").read_bytes())
    content[content.index(struct.pack("<4f", 1, 1, 1, 1)) + 100] ^= 1
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="not those that were written"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_checkpoint_of_a_published_size_is_read(zip_format: bool, tmp_path: Path) -> None:
    """9,000 tensors, as many as weights, averages and optimizer state of a published model have together."""
    weights = OrderedDict((f"model.block.{i}.weight", torch.full((3, 2), float(i))) for i in range(3000))
    state = {i: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)} for i in range(2000)}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(2000))}]}
    made = {"state_dict": weights, "optimizer_states": [optimizer], "global_step": 7}
    torch.save(made, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zip_format)
    read = read_checkpoint(tmp_path / "x.ckpt")
    assert list(read["state_dict"]) == list(weights) and read["global_step"] == 7
    assert all(torch.equal(read["state_dict"][name], value) for name, value in weights.items())
    assert read["optimizer_states"][0]["param_groups"] == optimizer["param_groups"]


def test_a_safetensors_file_with_an_absurd_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    deep = b'{"a":' * 100_000
    absurd = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    for content in (
        b"\xff" * 8,
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", len(deep)) + deep,
        struct.pack("<Q", len(absurd)) + absurd,
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match="truncated or damaged"):
            read_checkpoint(path)


# Arrays


def header(shape: str, *, version: int = 1, length: int | None = None) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
        + text
    )


ARRAYS = {
    "huge shape": header("(1099511627776, 16, 64, 64, 3)"),
    "overflowing shape": header("(" + "9" * 30 + ",)"),
    "negative shape": header("(-1, 1, 1, 1, 3)"),
    "huge header": header("(1,)", version=2, length=0xFFFFFFF0),
    "deep header": header("(" * 5000 + ")" * 5000),
    "no literal": header("__import__('os').getcwd()"),
    "half a literal": header("("),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_declares_more_than_it_holds_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(ARRAYS[name] + bytes(100))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", ARRAYS[name] + bytes(100))
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        with pytest.raises(UserError, match="cannot read") as error:
            open_source(path, split="train")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_tensors(tmp_path / "x.npz")


def test_a_zip_bomb_of_an_array_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lvdm.arrays.SMALL", 1 << 20)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("arr_0.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": (100, 16, 64, 1024, 3)})
        for _ in range(300):
            entry.write(bytes(1 << 20))
    with pytest.raises(UserError, match="would become"):
        open_source(tmp_path / "x.npz", split="train")
    with pytest.raises(UserError, match="would become"):
        read_tensors(tmp_path / "x.npz")
