"""Tar shards: what the webdataset package writes is read back, sample by sample, as a folder of files would be."""

import io
import tarfile
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image
from video_files import LENGTH, frames_seen, grey, write_video

from lvdm.data import Draw, TarShards, VideoData, VideoFolder
from lvdm.types import ABSENT, UserError


def png(frame: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey(frame)).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards by webdataset's own writer: mp4, avi and frames, with captions and classes here and there."""
    root = tmp_path_factory.mktemp("shards")
    for name in ("x.mp4", "x.avi"):
        write_video(root / "files" / name)
    mp4, avi = ((root / "files" / name).read_bytes() for name in ("x.mp4", "x.avi"))
    frames = {f"{frame}.png": png(frame) for frame in range(12)}
    samples = [
        {"__key__": "0000", "mp4": mp4, "json": {"caption": "from json", "label": 4}},
        {"__key__": "0001", "avi": avi, "txt": "from txt", "cls": 2},
        {"__key__": "in/0002", **frames},
        {"__key__": "0003", "mp4": mp4, "json": {"other": 1}},
        {"__key__": "0004", "txt": "no video here"},
    ]
    (root / "set").mkdir()
    with webdataset.ShardWriter(str(root / "set" / "%03d.tar"), maxcount=3, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    return root / "set"


def test_samples_of_shards_are_videos_with_what_is_known_of_them(root: Path) -> None:
    data = VideoFolder(root, num_frames=4, size=16, stride=3, layout=TarShards(), random_clip=False, image_fps=6)
    assert data.names == ["000.tar/0000", "000.tar/0001", "000.tar/in/0002", "001.tar/0003"]
    items = list(data)
    assert [item["caption"] for item in items] == ["from json", "from txt", "", ""]
    assert [item["label"] for item in items] == [4, 2, ABSENT, ABSENT]
    assert [item["fps"].item() for item in items] == pytest.approx([4, 4, 2, 4])
    centre = [7, 10, 13, 16]  # 10 frames in the middle of 24
    assert [frames_seen(item["video"]) for item in items] == [centre, centre, [1, 4, 7, 10], centre]
    assert data.usable.facts[0].num_frames == LENGTH and data.usable.facts[2].num_frames == 12


def test_the_keys_and_bytes_are_those_that_webdataset_reads(root: Path) -> None:
    shards = sorted(map(str, root.glob("*.tar")))
    theirs = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        video = sample.get("mp4") or sample.get("avi")
        images = [sample[key] for key in sorted((k for k in sample if k.endswith("png")), key=lambda k: int(k.split(".")[0]))]
        if video or images:
            theirs[f"{Path(sample['__url__']).name}/{sample['__key__']}"] = [video] if video else images
    ours = {}
    for video in TarShards().find(root):
        members = video.location if isinstance(video.location, tuple) else (video.location,)
        ours[video.name] = [each.read() for each in members]
    assert ours == theirs and len(ours) == 4


def test_shards_give_the_same_clips_for_any_number_of_workers(root: Path) -> None:
    def clips_with(workers: int) -> torch.Tensor:
        data = VideoFolder(root, num_frames=3, size=8, layout=TarShards(), flip=True, clips_per_video=2)
        loader = VideoData(data, batch_size=2, num_workers=workers).train_dataloader()
        loader.sampler.set_epoch(1)
        return torch.cat([batch["video"] for batch in loader])

    alone = clips_with(0)
    assert len(alone) == 8 and torch.equal(alone, clips_with(3))


def test_a_clip_of_a_shard_is_the_clip_of_the_file(root: Path) -> None:
    files = VideoFolder(root.parent / "files", num_frames=3, size=8)
    shards = VideoFolder(root, num_frames=3, size=8, layout=TarShards("000.tar"))
    assert files.names == ["x.avi", "x.mp4"]
    whole = [files.read(1)["video"], files.read(0)["video"]]
    assert all(torch.equal(shards.read(i)["video"], whole[i]) for i in range(2))
    assert torch.equal(shards[Draw(2, 1)]["video"], shards[Draw(2, 1)]["video"])


def test_shards_that_cannot_be_used_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no shards \*\*/\*.tar under"):
        TarShards().find(tmp_path)
    (tmp_path / "cut.tar").write_bytes((root / "000.tar").read_bytes()[:-9000])
    with pytest.raises(UserError, match="cannot read the shard .*cut.tar"):
        TarShards().find(tmp_path)
    with tarfile.open(tmp_path / "cut.tar", "w") as tar:
        tar.add(root.parent / "files" / "x.mp4", "0.txt")
    with pytest.raises(UserError, match="none of the 1 shards"):
        TarShards().find(tmp_path)
