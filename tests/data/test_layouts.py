"""Data sets as they lie on disk: which videos are found, with which classes and captions, and which split they are in."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import frames_seen, write_images, write_video

from lvdm.data import UCF101, FolderSplit, FractionSplit, Kinetics, ListSplit, SkyTimelapse, Taichi, VideoFolder, VideoTable
from lvdm.types import ABSENT, UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize("folder", ["sky_train", "train"])
def test_sky_clips_are_nested_folders_of_frames(folder: str, tmp_path: Path) -> None:
    for clip in ("abc/abc_2", "abc/abc_10", "xyz/xyz_1"):
        write_images(tmp_path / folder / clip, length=6)
    write_images(tmp_path / "sky_test" / "other" / "clip", length=6)
    data = VideoFolder(tmp_path, num_frames=3, size=16, layout=SkyTimelapse("train"), random_clip=False, stride=2)
    assert data.names == [f"{folder}/abc/abc_10", f"{folder}/abc/abc_2", f"{folder}/xyz/xyz_1"]
    assert frames_seen(data[1]["video"]) == [0, 2, 4]
    assert VideoFolder(tmp_path, num_frames=3, size=16, layout=SkyTimelapse("test")).names == ["sky_test/other/clip"]
    with pytest.raises(UserError, match="has no sky_train/ or train/, where SkyTimelapse"):
        SkyTimelapse("train").find(tmp_path / "sky_test")


def test_taichi_has_a_folder_for_each_part(tmp_path: Path) -> None:
    touch(tmp_path, "train/a#1#2.mp4", "train/b.mp4", "test/c.mp4")
    assert [video.name for video in Taichi("train").find(tmp_path)] == ["train/a#1#2.mp4", "train/b.mp4"]
    assert [video.name for video in Taichi("all").find(tmp_path)] == ["test/c.mp4", "train/a#1#2.mp4", "train/b.mp4"]


def write_ucf(root: Path, *, is_flat: bool) -> Path:
    """Three classes with the published spelling of one, two groups; the lists as they are published."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 Archery\r\n3 HandstandPushups\r\n")
    classes = [("ApplyEyeMakeup",) * 2, ("Archery",) * 2, ("HandstandPushups", "HandStandPushups")]
    files = [(folder, f"v_{name}_g{group:02d}_c01.avi") for folder, name in classes for group in (1, 2)]
    for fold in (1, 2, 3):
        train = [f"{folder}/{file} {1 + number // 2}\n" for number, (folder, file) in enumerate(files) if number % 2 == fold % 2]
        test = [f"{folder}/{file}\n" for number, (folder, file) in enumerate(files) if number % 2 != fold % 2]
        (lists / f"trainlist{fold:02d}.txt").write_text("".join(train))
        (lists / f"testlist{fold:02d}.txt").write_text("".join(test))
    touch(root / "UCF-101", *(file if is_flat else f"{folder}/{file}" for folder, file in files))
    return root


@pytest.mark.parametrize("is_flat", [False, True])
def test_ucf101_follows_its_official_lists(is_flat: bool, tmp_path: Path) -> None:
    root = write_ucf(tmp_path / "ucf", is_flat=is_flat)
    train = UCF101("train", fold=1).find(root)
    assert [Path(video.name).name for video in train] == [
        *("v_ApplyEyeMakeup_g02_c01.avi", "v_Archery_g02_c01.avi"),
        "v_HandStandPushups_g02_c01.avi",
    ]
    assert [video.description.label for video in train] == [0, 1, 2] and all(video.location.is_file() for video in train)
    for fold in (1, 2, 3):
        parts = [{video.name for video in UCF101(part, fold=fold).find(root)} for part in ("train", "test", "all")]
        assert not parts[0] & parts[1] and parts[0] | parts[1] == parts[2] and len(parts[2]) == 6
    below = UCF101("train", lists=root / "ucfTrainTestlist").find(root / "UCF-101")
    assert [video.description for video in below] == [video.description for video in train]


def test_ucf101_without_its_lists_or_with_strange_files_is_told_what_it_needs(tmp_path: Path) -> None:
    root = write_ucf(tmp_path / "ucf", is_flat=True)
    touch(root / "UCF-101", "v_Juggling_g01_c01.avi")
    with pytest.raises(UserError, match="v_Juggling_g01_c01.avi has no class"):
        UCF101("all").find(root)
    (root / "UCF-101" / "v_Archery_g02_c01.avi").unlink()
    missing = next(video for video in UCF101("train").find(root) if "Archery" in video.name)
    assert not missing.location.exists(), "a file of the list that is not there is skipped and named later"
    with pytest.raises(UserError, match="no classInd.txt in .*ucfTrainTestlist or .*; put UCF-101's official lists there"):
        UCF101("train").find(tmp_path)
    with pytest.raises(UserError, match="fold is 4"):
        UCF101("train", fold=4)


def test_kinetics_has_a_folder_for_each_class_and_parts_agree_on_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "train/zumba/-4wsuPCjDBc_000005_000015.mp4", "train/abseiling/0347ZoDXyP0_000095_000105.mp4")
    touch(tmp_path, "train/loose_000001_000011.mp4", "val/bowling/a_b-cdefghij_000001_000011.mp4")
    train, val = Kinetics("train").find(tmp_path), Kinetics("val").find(tmp_path)
    assert [(video.name.split("/")[1], video.description.label) for video in train] == [("abseiling", 0), ("zumba", 2)]
    assert [video.description.label for video in val] == [1]
    with pytest.raises(UserError, match="has no test/, where Kinetics"):
        Kinetics("test").find(tmp_path)


def test_kinetics_by_its_official_list_counts_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "val/-4wsuPCjDBc_000005_000015.mp4", "val/x/a_b-cdefghi_000001_000011.mp4", "val/other_000001_000011.mp4")
    lines = ["label,youtube_id,time_start,time_end,split", "zumba,-4wsuPCjDBc,5,15,validate"]
    lines += ['"bowling, fast",a_b-cdefghi,1,11,val']
    lines += ["zumba,gone4567890,3,13,validate", "abseiling,0347ZoDXyP0,95,105,train"]
    (tmp_path / "k.csv").write_text("\n".join(lines))
    found = Kinetics("val", file=tmp_path / "k.csv").find(tmp_path)
    assert [(video.name, video.description.label) for video in found] == [
        ("val/-4wsuPCjDBc_000005_000015.mp4", 2),
        ("val/x/a_b-cdefghi_000001_000011.mp4", 1),
    ]
    assert "1 of 3 videos of" in caplog.text and "are missing" in caplog.text
    (tmp_path / "k.csv").write_text("\n".join([lines[0], "zumba,gone4567890,3,13,val"]))
    with pytest.raises(UserError, match="none of the 3 videos of .*val is in .*k.csv"):
        Kinetics("val", file=tmp_path / "k.csv").find(tmp_path)
    for wrong in ("label,id,split\nzumba,x,val", f"{lines[0]}\nzumba,gone4567890,soon,13,val"):
        (tmp_path / "k.csv").write_text(wrong)
        with pytest.raises(UserError, match="line 2 of .*k.csv names no clip .* expected the columns label, youtube_id"):
            Kinetics("val", file=tmp_path / "k.csv").find(tmp_path)


def test_a_table_names_videos_and_captions_by_the_columns_that_are_said(tmp_path: Path) -> None:
    rows = [("p1", "7", 'a "dog", running', 3), ("p2", "9", "über Wasser", ""), ("p1", "8", "", 0)]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("page", "id", "name", "kind"), *rows])
    lines = [json.dumps({"page": page, "id": id, "name": name, "kind": kind}) + "\n" for page, id, name, kind in rows]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    for table in ("t.csv", "t.jsonl"):
        found = VideoTable(tmp_path / table, video="{page}/{id}.mp4", caption="name", label="kind").find(tmp_path)
        assert [video.name for video in found] == ["p1/7.mp4", "p2/9.mp4", "p1/8.mp4"]
        assert [video.description.caption for video in found] == ['a "dog", running', "über Wasser", ""]
        assert [video.description.label for video in found] == [3, ABSENT, 0]
        with pytest.raises(UserError, match=f"line [12] of .*{table} has no caption; its columns are page, id, name, kind"):
            VideoTable(tmp_path / table, video="id").find(tmp_path)
        plain = VideoTable(tmp_path / table, video="id", caption=None).find(tmp_path)
        assert plain[0].name == "7" and plain[0].description.as_batch() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video,caption\na.mp4,x\na.mp4,y\n", "line 3 of .* gives a.mp4 a second time"),
        ("video,caption,label\na.mp4,x,cat\n", "no label in column label of .*t.csv is an integer class from 0"),
        ("video,caption,label\n", "lists no videos"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        VideoTable(tmp_path / "t.csv", label="label" if "label" in text else None).find(tmp_path)


def test_captioned_videos_come_as_batches_and_a_missing_one_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mp4")
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,grey\nb.mp4,white\n")
    data = VideoFolder(tmp_path / "videos", num_frames=2, size=8, layout=VideoTable(tmp_path / "t.csv"), max_broken=0.5)
    assert data.names == ["a.mp4"] and data[0]["caption"] == "grey"
    assert "b.mp4: No such file" in data.usable.broken.reasons["b.mp4"]


NAMES = [f"{folder}/{number}.mp4" for folder in "abcdefgh" for number in range(20)]


@settings(max_examples=30)
@given(st.integers(0, 99), st.floats(0.05, 0.95), st.booleans())
def test_fractions_with_one_seed_share_no_video_and_leave_none_out(seed: int, cut: float, by_folder: bool) -> None:
    first = FractionSplit(0, cut, seed=seed, by_folder=by_folder).choose(NAMES)
    second = FractionSplit(cut, 1, seed=seed, by_folder=by_folder).choose(NAMES)
    assert sorted(first + second) == sorted(NAMES)
    if by_folder:
        assert not {name[0] for name in first} & {name[0] for name in second}
    assert FractionSplit(0, cut, seed=seed, by_folder=by_folder).choose(NAMES[::3]) == [n for n in NAMES[::3] if n in first]


def test_a_fraction_is_that_fraction_and_another_seed_another_choice() -> None:
    names = [f"{number}.mp4" for number in range(4000)]
    chosen = FractionSplit(0.2, 0.5).choose(names)
    assert abs(len(chosen) / 4000 - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5  # four standard deviations of a fair draw
    assert chosen != FractionSplit(0.2, 0.5, seed=1).choose(names)
    with pytest.raises(UserError, match="expected fractions"):
        FractionSplit(0.5, 0.5)


def test_lists_and_folders_choose_by_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a/3.mp4\nh/19\n\nnot/there\n")
    assert ListSplit(tmp_path / "list.txt").choose(NAMES) == ["a/3.mp4", "h/19.mp4"]
    others = ListSplit(tmp_path / "list.txt", exclude=True).choose(NAMES)
    assert others == [name for name in NAMES if name not in ("a/3.mp4", "h/19.mp4")]
    (tmp_path / "list.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match="none of the 2 lines .* names a video: the list has x, the data set a/0.mp4"):
        ListSplit(tmp_path / "list.txt").choose(NAMES)
    assert FolderSplit(["b", "g/"]).choose(NAMES) == [name for name in NAMES if name[0] in "bg"]
    with pytest.raises(UserError, match="no video lies below z"):
        FolderSplit("z").choose(NAMES)


def test_a_split_leaves_only_its_videos(tmp_path: Path) -> None:
    for name in ("train/a.mp4", "train/b.mp4", "test/c.mp4"):
        write_video(tmp_path / name)
    assert VideoFolder(tmp_path, num_frames=2, size=8, split=FolderSplit("test")).names == ["test/c.mp4"]
    with pytest.raises(UserError, match="the split leaves none of the 3 videos"):
        VideoFolder(tmp_path, num_frames=2, size=8, split=FractionSplit(0, 1e-9)).prepare()
