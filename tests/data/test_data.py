"""Folders of videos into items: names in order, draws, captions, broken files."""

import json
import logging
from pathlib import Path

import pytest
import torch
from video_files import frames_seen, write_images, write_video

from lvdm.data import Draw, VideoData, VideoFolder
from lvdm.types import ABSENT, UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos in folders, and things that are none."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("b/1.mp4", "b/0.mp4", "a.mp4", "c.avi", ".hidden.mp4", "d/deep/2.mp4"):
        write_video(root / name)
    write_images(root / "images" / "clip")
    (root / "notes.txt").write_text("not a video")
    return root


NAMES = ["a.mp4", "b/0.mp4", "b/1.mp4", "c.avi", "d/deep/2.mp4", "images/clip"]


def test_items_are_clips_of_all_videos_in_sorted_order(root: Path) -> None:
    data = VideoFolder(root, num_frames=4, size=16, stride=3, random_clip=False)
    assert data.names == NAMES and len(data) == 6
    items = [data[i] for i in range(6)]
    for index, item in enumerate(items):
        assert item["video"].shape == (3, 4, 16, 16) and item["video"].dtype == torch.float32
        assert item["index"] == index and set(item) == {"video", "index", "fps"}
        assert frames_seen(item["video"]) == [7, 10, 13, 16]  # 10 frames in the middle of 24
    assert [item["fps"].item() for item in items] == pytest.approx([4.0] * 5 + [25 / 3])


def test_constructing_does_not_look_at_the_disk_and_a_missing_folder_names_its_nearest_parent(tmp_path: Path) -> None:
    data = VideoFolder(tmp_path / "there" / "not", num_frames=4, size=16)
    with pytest.raises(UserError, match=f"the nearest folder that does is {tmp_path}\\)"):
        VideoData(data, batch_size=1).setup("fit")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="val does not exist, but .*test does; give it as the root"):
        VideoFolder(tmp_path / "val", num_frames=4, size=16).prepare()
    (tmp_path / "there" / "not").mkdir(parents=True)
    with pytest.raises(UserError, match="no videos under"):
        data.prepare()


def test_draws_depend_on_seed_epoch_and_sample_only(root: Path) -> None:
    def starts(epoch: int, seed: int = 0) -> list[int]:
        data = VideoFolder(root, num_frames=2, size=8, clips_per_video=2, seed=seed)
        return [frames_seen(data[Draw(epoch, i)]["video"])[0] for i in reversed(range(12))]

    assert starts(3) == starts(3)
    assert starts(3) != starts(4) and starts(3) != starts(3, seed=1)
    assert starts(0)[:6] != starts(0)[6:]  # a video's two clips are drawn apart


def test_whole_videos_can_be_read_at_the_stride(root: Path) -> None:
    data = VideoFolder(root, num_frames=4, size=16, stride=5)
    assert frames_seen(data.read(0)["video"]) == [0, 5, 10, 15, 20]


def test_videos_held_in_memory_give_the_same_items(root: Path) -> None:
    draws = [Draw(epoch, index) for epoch in range(2) for index in range(6)]
    options = {"num_frames": 3, "size": 16, "stride": 2, "flip": True}
    read, held = VideoFolder(root, **options), VideoFolder(root, in_memory=True, **options)
    for draw in draws:
        assert torch.equal(read[draw]["video"], held[draw]["video"]) and read[draw]["fps"] == held[draw]["fps"]
    item = held[draws[0]]["video"]
    expected = item.clone()
    item.zero_()
    assert torch.equal(held[draws[0]]["video"], expected)


def test_the_fingerprint_follows_names_sizes_captions_and_view_but_not_the_place(tmp_path: Path, root: Path) -> None:
    def taken(folder: Path, **options: int) -> str:
        return VideoFolder(folder, **{"num_frames": 2, "size": 8, **options}).fingerprint()

    copy = tmp_path / "copy"
    write_video(copy / "x.mp4")
    first = taken(copy)
    copy.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert taken(moved) == first == taken(moved, num_frames=3)
    assert first not in {taken(moved, size=16), taken(moved, stride=2), taken(root)}
    (moved / "metadata.jsonl").write_text('{"file": "x.mp4", "caption": "grey"}\n')
    captioned = taken(moved)
    write_video(moved / "x.mp4", length=9)
    assert len({first, captioned, taken(moved)}) == 3


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match="expected a fraction"):
        VideoFolder("x", num_frames=1, size=8, max_broken=5)
    with pytest.raises(UserError, match=r"size is \[8, 8, 3\], expected"):
        VideoFolder("x", num_frames=1, size=[8, 8, 3])
    with pytest.raises(UserError, match="stride is 0, expected an integer from 1 to"):
        VideoFolder("x", num_frames=1, size=8, stride=0)


def test_workers_change_no_clip(root: Path) -> None:
    def clips_with(workers: int) -> list[torch.Tensor]:
        data = VideoFolder(root, num_frames=2, size=8, flip=True, clips_per_video=2)
        loader = VideoData(data, batch_size=3, num_workers=workers).train_dataloader()
        seen = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            seen += [batch["video"] for batch in loader]
        return seen

    alone, helped = clips_with(0), clips_with(2)
    assert len(alone) == 8 and all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert not torch.equal(torch.cat(alone[:4]), torch.cat(alone[4:]))


# captions and classes


def write_metadata(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_captions_and_classes_find_their_videos(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [{"file": name, "caption": f"video {name}", "label": i, "fps": 99} for i, name in enumerate(NAMES) if i != 2]
    path = write_metadata(tmp_path / "m.jsonl", *reversed(lines), {"file": "gone.mp4", "caption": "x"})
    data = VideoFolder(root, num_frames=2, size=8, metadata=path)
    with caplog.at_level(logging.WARNING):
        items = [data[i] for i in range(6)]
    assert [item["caption"] for item in items] == ["" if i == 2 else f"video {name}" for i, name in enumerate(NAMES)]
    assert [item["label"] for item in items] == [0, 1, ABSENT, 3, 4, 5]
    assert "1 of 6 files" in caplog.text and "1 of 6 videos have no caption" in caplog.text
    batch = next(iter(VideoData(data, batch_size=6).train_dataloader()))
    assert batch["label"].dtype == torch.int64 and batch["fps"].dtype == torch.float32 and len(batch["caption"]) == 6


def test_metadata_beside_the_videos_is_read_by_itself(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4")
    write_metadata(tmp_path / "metadata.jsonl", {"file": "x.mp4", "label": 3})
    item = VideoFolder(tmp_path, num_frames=2, size=8)[0]
    assert item["label"] == 3 and "caption" not in item


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"file": "a.mp4", "label": "cat"}', "the label is 'cat'"),
        ('{"caption": "x"}', "line 1 .* has no file"),
        ("{", "line 1 .* is not JSON"),
        ('{"file": "other.mp4"}', "none of the 1 files .* its first is other.mp4, the first video is a.mp4"),
    ],
)
def test_metadata_that_cannot_be_meant_is_refused(root: Path, tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=said):
        VideoFolder(root, num_frames=2, size=8, metadata=tmp_path / "m.jsonl").prepare()


# broken videos


def with_broken(root: Path, good: int, broken: int) -> Path:
    """Videos in sorted order: the broken ones last; half of them cut short, half with too few frames."""
    write_video(root / "0000.mp4")
    for i in range(1, good):
        (root / f"{i:04d}.mp4").write_bytes((root / "0000.mp4").read_bytes())
    for i in range(good, good + broken):
        if i % 2:
            write_video(root / f"{i:04d}.mp4", length=3)
        else:
            (root / f"{i:04d}.mp4").write_bytes((root / "0000.mp4").read_bytes()[:1000])
    return root


def test_broken_videos_are_skipped_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = with_broken(tmp_path, good=18, broken=2)
    data = VideoFolder(root, num_frames=8, size=8)
    with caplog.at_level(logging.WARNING):
        items = list(data)
    assert data.names == [f"{i:04d}.mp4" for i in range(18)] and [item["index"] for item in items] == [*range(18)]
    assert caplog.text.count("skipped a video") == 2
    assert "cannot read" in caplog.text and "0018.mp4" in caplog.text
    assert "needs 8 frames" in caplog.text and "0019.mp4 has 3" in caplog.text


def test_a_video_that_breaks_later_is_skipped_and_another_drawn_the_same_for_all(tmp_path: Path) -> None:
    root = with_broken(tmp_path, good=20, broken=0)
    sets = [VideoFolder(root, num_frames=8, size=8) for _ in range(2)]
    for data in sets:
        data.prepare()
        data.record_skipped(tmp_path / "skipped.txt")
    for i in (3, 11):
        (root / f"{i:04d}.mp4").write_bytes(b"gone")
    first = [sets[0][Draw(1, i)] for i in range(20)]
    assert {item["index"] for item in first}.isdisjoint({3, 11})
    again = {i: sets[1][Draw(1, i)] for i in reversed(range(20))}
    assert all(torch.equal(again[i]["video"], item["video"]) for i, item in enumerate(first))
    named = (tmp_path / "skipped.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in named] == [f"cannot read {root}/{i:04d}.mp4" for i in (3, 11)]


def test_too_many_broken_videos_stop_before_training(tmp_path: Path) -> None:
    root = with_broken(tmp_path, good=10, broken=6)
    with pytest.raises(UserError, match=r"6 of 16 videos under .* more than max_broken=0.2 .* raise max_broken"):
        VideoData(VideoFolder(root, num_frames=8, size=8), batch_size=2).setup("fit")
    assert len([*VideoFolder(root, num_frames=8, size=8, max_broken=0.5)]) == 10


def test_a_set_of_broken_videos_only_ends(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 videos"):
        VideoFolder(with_broken(tmp_path, good=0, broken=1), num_frames=50, size=8, max_broken=1).prepare()


def test_an_error_in_a_worker_is_still_one_sentence(tmp_path: Path) -> None:
    root = with_broken(tmp_path, good=20, broken=0)
    data = VideoFolder(root, num_frames=8, size=8)
    module = VideoData(data, batch_size=2, num_workers=1)
    module.setup("fit")
    for i in range(1, 20):
        (root / f"{i:04d}.mp4").write_bytes(b"gone")
    with pytest.raises(UserError, match="raise max_broken") as error:
        list(module.train_dataloader())
    assert "\n" not in str(error.value)
