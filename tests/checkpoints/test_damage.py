"""Damage is noticed: a single flipped bit in any file that lvdm writes is refused, or nothing that is read differs."""

from __future__ import annotations

import errno
import io
import itertools
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lvdm import files
from lvdm.checkpoints.model_file import ModelInfo, content_hash, read_info, read_model, save_model
from lvdm.data import CacheFacts, LatentClips, LatentWriter
from lvdm.jobs.resume import checkpoint_to_resume, read_run_checkpoint
from lvdm.jobs.run_folder import RunFolder
from lvdm.training.checkpoint_file import CheckedIO, write_checkpoint
from lvdm.types import UserError

INFO = ModelInfo(kind="autoencoder", scale=0.5, sampling={"fps": 12.5}, config={"seed": 7, "name": "übung"})


def equal(a: Any, b: Any) -> bool:
    """To the bit: values that are not numbers included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def flip_all(path: Path, read: Callable[[], Any], places: Iterable[int]) -> int:
    """Flip one bit at a time; returns how many flips were refused. The others must change nothing that is read."""
    whole, expected, refused = path.read_bytes(), read(), 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = read()
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error), f"bit {place}: {error}"
            refused += 1
        else:
            assert equal(found, expected), f"bit {place} of {path.name} changed what is read"
    path.write_bytes(whole)
    return refused


def some(count: int, size: int) -> list[int]:
    return random.Random(0).sample(range(8 * size), count)


def header_size(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = {"codec.weight": torch.randn(5, 7), "codec.half": torch.randn(9).half(), "codec.count": torch.tensor(3)}
    save_model(tmp_path / "model.safetensors", tensors, INFO)
    return tmp_path / "model.safetensors"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    facts = CacheFacts("codec", "data", 4, "float32", 2)
    with LatentWriter(tmp_path / "cache", facts, 4) as out:
        for video in out.todo():
            out.add(f"v{video}", torch.full((2, 6, 2, 2), float(video)), fps=12.5, caption=f"video {video}", label=video)
    return tmp_path / "cache"


# Flips ---------------------------------------------------------------------------------------------------------------------


def test_flipped_bits_of_a_model_files_header_are_noticed_or_harmless(model):
    places = range(0, 8 * header_size(model), 5)
    assert flip_all(model, lambda: read_model(model), places) >= 0.9 * len(places), "the rest is white space and names of keys"


def test_every_flipped_bit_of_a_model_files_weights_is_refused_by_the_tensors_name(model):
    start, size = header_size(model), model.stat().st_size
    assert flip_all(model, lambda: read_model(model), range(8 * start, 8 * size)) == 8 * (size - start)
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors is damaged: its tensor codec\.\w+ is not what was written"):
        read_model(model)


def test_the_description_alone_is_checked_too(model):
    flip_all(model, lambda: read_info(model), range(64, 8 * header_size(model), 11))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", ["index.json", "latents-00001.safetensors"])
def test_flipped_bits_of_cached_latents_are_noticed_or_harmless(cache, name, in_memory):
    def read() -> Any:
        data = LatentClips(cache, num_latents=3, stride=2, in_memory=in_memory)
        return [data[number] for number in range(len(data))], data.names, data.codec_fingerprint, data.temporal_factor

    size = (cache / name).stat().st_size
    assert flip_all(cache / name, read, some(800, size)) > 600


def test_encoding_makes_a_damaged_shard_again(cache, caplog):
    shard = cache / "latents-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
    with LatentWriter(cache, CacheFacts("codec", "data", 4, "float32", 2), 4) as out:
        assert out.missing() == [range(2, 4)]
        for video in out.todo():
            out.add(f"v{video}", torch.full((2, 6, 2, 2), float(video)), fps=12.5, caption=f"video {video}", label=video)
    assert "its tensor v3 is not what was written" in caplog.text and shard.read_bytes() == whole


def test_a_shard_of_another_cache_is_not_taken_for_this_ones(cache):
    """Of the same size, and whole in itself."""
    first, second = (cache / f"latents-0000{number}.safetensors" for number in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match="latents-00001.safetensors is not the shard that index.json lists"):
        LatentClips(cache, num_latents=3).prepare()


def test_flipped_bits_of_a_checkpoint_are_noticed_or_harmless(tmp_path):
    """In the archive's structure and the pickle as in the weights."""
    state = {"state_dict": {"w": torch.randn(3, 4)}, "optimizer_states": [{"m": torch.randn(4)}], "global_step": 7, "loops": {}}
    write_checkpoint(state, path := tmp_path / "last.ckpt")
    assert equal(read_run_checkpoint(path), state)
    size = path.stat().st_size
    places = range(0, 8 * size, 11)
    assert flip_all(path, lambda: read_run_checkpoint(path), places) == len(places)


def test_a_checkpoint_with_one_flipped_bit_falls_back_to_the_one_before_aloud(tmp_path, caplog):
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    state = {"state_dict": {"w": torch.zeros(300)}, "optimizer_states": [], "global_step": 7, "loops": {}}
    for name in ("last.ckpt", "previous.ckpt", "step=3.ckpt"):
        write_checkpoint(state, folder.checkpoints / name)
    for damaged, next_one in (("last.ckpt", "previous.ckpt"), ("previous.ckpt", "step=3.ckpt")):
        path = folder.checkpoints / damaged
        content = path.read_bytes()
        at = content.index(bytes(1200)) + 5
        path.write_bytes(content[:at] + b"\x10" + content[at + 1 :])
        assert checkpoint_to_resume(folder, "auto") == folder.checkpoints / next_one
        assert f"{damaged} is damaged: its content is not what was written" in caplog.text
        with pytest.raises(UserError, match=f"{damaged} is damaged"):
            read_run_checkpoint(checkpoint_to_resume(folder, str(path)))
        with pytest.raises(UserError, match=f"{damaged} is damaged"):
            CheckedIO().load_checkpoint(path, weights_only=True)
    assert "trying the one before it" in caplog.text


@pytest.mark.parametrize("broken_at", [0, 1, 5])
def test_a_full_disk_is_told_as_one_and_not_as_torch_tells_it(tmp_path, monkeypatch, broken_at):
    """`broken_at`: the write that fails. torch's own error is `unexpected pos 64 vs 0` and the like."""
    writes = itertools.count()

    class Full(io.FileIO):
        def write(self, data: bytes) -> int:
            if next(writes) >= broken_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    checkpoints = CheckedIO()
    checkpoints.save_checkpoint({"w": torch.zeros(300)}, tmp_path / "last.ckpt")
    assert files.why_not_written(checkpoints.error) == "the disk is full: No space left on device"


# Old files, and reading unchecked --------------------------------------------------------------------------------------------


def without_hashes(path: Path) -> None:
    """As lvdm wrote its files before they had hashes."""

    def plain(text: str) -> str:
        found = json.loads(text)
        for shard in found.get("shards", []):
            del shard["hash"]
            shard["size"] = (path.parent / shard["file"]).stat().st_size
        return json.dumps({key: value for key, value in found.items() if key not in ("hash", "tensor_hashes", "format")}
                          | ({} if "kind" in found else {"format": found["format"]}))  # fmt: skip

    if path.suffix == ".json":
        path.write_text(plain(path.read_text()))
        return
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(
        {name: tensor.clone() for name, tensor in load_file(path).items()}, path, metadata | {"lvdm": plain(metadata["lvdm"])}
    )


def test_a_model_file_without_hashes_is_read_with_one_note(model, caplog):
    expected = read_model(model)
    hashed = content_hash(model)
    without_hashes(model)
    for _ in range(2):
        assert equal(read_model(model)[1], expected[1]) and read_model(model)[0] == expected[0]
    assert caplog.text.count(f"{model} has no hashes") == 1
    assert content_hash(model) == files.hash_file(model) != hashed


def test_latents_without_hashes_are_read_with_one_note(cache, caplog):
    expected = LatentClips(cache, num_latents=6)[3]
    for path in sorted(cache.iterdir(), reverse=True):  # the index last
        without_hashes(path)
    assert equal(LatentClips(cache, num_latents=6)[3], expected)
    assert equal(LatentClips(cache, num_latents=6, in_memory=False)[3], expected)
    assert caplog.text.count("has no hashes") == 1
    with LatentWriter(cache, CacheFacts("codec", "data", 4, "float32", 2), 4) as out:
        assert list(out.todo()) == []


def test_a_checkpoint_without_a_hash_is_read_with_a_note(tmp_path, caplog):
    state = {"state_dict": {"w": torch.randn(3)}, "optimizer_states": [], "global_step": 7, "loops": {}}
    torch.save(state, tmp_path / "last.ckpt")
    assert equal(read_run_checkpoint(tmp_path / "last.ckpt"), state)
    assert "last.ckpt has no hashes" in caplog.text


def test_LVDM_VERIFY_0_reads_what_is_there(model, cache, tmp_path, monkeypatch, caplog):
    state = {"state_dict": {"w": torch.zeros(300)}, "optimizer_states": [], "global_step": 7, "loops": {}}
    write_checkpoint(state, tmp_path / "last.ckpt")
    for path in (model, cache / "latents-00001.safetensors", tmp_path / "last.ckpt"):
        content = bytearray(path.read_bytes())
        content[-1 if path.suffix == ".safetensors" else content.index(bytes(800))] ^= 1
        path.write_bytes(content)
    reads = [
        lambda: read_model(model),
        lambda: LatentClips(cache, num_latents=6)[3],
        lambda: read_run_checkpoint(tmp_path / "last.ckpt"),
    ]
    for read in reads:
        with pytest.raises(UserError, match="is damaged"):
            read()
    monkeypatch.setenv("LVDM_VERIFY", "0")
    for read in reads:
        read()
    assert "has no hashes" not in caplog.text


# Hashes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_a_hash_is_of_name_type_shape_and_values_in_order(dtype):
    values = torch.arange(12).to(dtype).reshape(3, 4)
    known = files.hash_tensor("a", values)
    assert known == files.hash_tensor("a", values.mT.contiguous().mT), "however it lies in memory"
    others = [("b", values), ("a", values.reshape(4, 3)), ("a", values[:, [1, 0, 2, 3]]), ("a", values.view(torch.uint8))]
    assert known not in {files.hash_tensor(name, tensor) for name, tensor in others}
    assert files.hash_tensor("a", torch.empty(0)) != files.hash_tensor("a", torch.tensor(0.0))
