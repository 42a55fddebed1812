"""What was written is read back by other programs; nothing is replaced, and nothing half-written remains."""

import os
import subprocess
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from lvdm.sampling import writers
from lvdm.sampling.output import Output, open_output
from lvdm.sampling.save_video import save_video
from lvdm.sampling.temporaries import temporary_name
from lvdm.sampling.writers import ContactSheet, GifWriter, Mp4Writer, NpzWriter, PngWriter, open_writers, paths_for
from lvdm.types import UserError


def moving_square(frames: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    video = np.full((frames, height, width, 3), (40, 60, 80), np.uint8)
    for t in range(frames):
        video[t, 8:24, 2 * t : 2 * t + 16] = (240, 160, 30)
    return video


def in_chunks(video: np.ndarray, size: int = 5) -> list[np.ndarray]:
    return [video[start : start + size] for start in range(0, len(video), size)]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_mp4_has_the_frames_and_the_rate(tmp_path: Path) -> None:
    video = moving_square()
    writer = Mp4Writer(tmp_path / "a.mp4", fps=12.5, quality=10)
    for chunk in in_chunks(video):
        writer.write(chunk)
    assert not (tmp_path / "a.mp4").exists(), "a file that is not whole has its final name"
    writer.close()
    back = iio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert back.shape == video.shape
    assert np.abs(back.astype(int) - video)[:, 10:22, :].mean() < 8, "yuv420p halves the colours' resolution, no more"
    assert iio.immeta(tmp_path / "a.mp4", plugin="FFMPEG")["fps"] == pytest.approx(12.5)
    assert leftovers(tmp_path) == []


def test_mp4_of_odd_sides_is_padded_not_refused(tmp_path: Path) -> None:
    writer = Mp4Writer(tmp_path / "odd.mp4", fps=8)
    writer.write(moving_square(height=31, width=47))
    writer.close()
    assert iio.imread(tmp_path / "odd.mp4", plugin="FFMPEG").shape[1:3] == (32, 48)


def test_better_quality_is_a_larger_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)
    for quality in (2, 9):
        writer = Mp4Writer(tmp_path / f"{quality}.mp4", fps=8, quality=quality)
        writer.write(noise)
        writer.close()
    assert (tmp_path / "9.mp4").stat().st_size > 2 * (tmp_path / "2.mp4").stat().st_size


def test_npz_and_png_lose_nothing(tmp_path: Path) -> None:
    video = moving_square()
    for writer in (NpzWriter(tmp_path / "a.npz"), PngWriter(tmp_path / "a")):
        for chunk in in_chunks(video):
            writer.write(chunk)
        writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["video"], video)
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "a").iterdir())]
    np.testing.assert_array_equal(np.stack(frames), video)
    assert leftovers(tmp_path) == []


def test_gif_has_the_frames(tmp_path: Path) -> None:
    video = moving_square()
    writer = GifWriter(tmp_path / "a.gif", fps=10)
    writer.write(video)
    writer.close()
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == len(video)
        image.seek(7)
        back = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(back - video[7]).max() <= 16, "a few colours fit a palette well"


def test_contact_sheet_takes_every_kth_frame_whatever_the_chunks(tmp_path: Path) -> None:
    video = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8)
    sheet = ContactSheet(tmp_path / "sheet.png", every=6)
    for chunk in in_chunks(video, 3):
        sheet.write(0, chunk)
    for chunk in in_chunks(video + 100, 7):
        sheet.write(1, chunk)
    sheet.close(gap=0)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))[::4, ::4, 0]
    np.testing.assert_array_equal(pixels, [[0, 6, 12, 18], [100, 106, 112, 118]])


@pytest.mark.parametrize("format_", writers.FORMATS)
def test_another_runs_file_stays(tmp_path: Path, format_: str) -> None:
    paths = paths_for(tmp_path, "a", [format_])
    for times in range(2):
        expected = pytest.raises(UserError, match="exists and is kept") if times else None
        if expected is None:
            with open_writers(paths, fps=8) as files:
                files.write(moving_square())
            continue
        with expected, open_writers(paths, fps=8) as files:
            files.write(moving_square(frames=3))
    assert leftovers(tmp_path) == []
    if format_ == "npz":
        assert len(np.load(paths["npz"])["video"]) == 12
    with open_writers(paths, fps=8, overwrite=True) as files:
        files.write(moving_square(frames=3))
    if format_ == "frames":
        assert len(list(paths["frames"].iterdir())) == 3
    assert leftovers(tmp_path) == []


def test_a_failure_midway_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_writers(paths_for(tmp_path, "a", writers.FORMATS), fps=8) as files:
        files.write(moving_square())
        raise RuntimeError("the network stumbled")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(writers, "temporary_name", lambda path: Path("/dev/full"))
    monkeypatch.setattr(writers, "remove", lambda path: None)
    paths = {"mp4": tmp_path / "a.mp4"}
    with pytest.raises(UserError, match="ffmpeg could not write .*a.mp4: .*"), open_writers(paths, fps=8) as files:
        for _ in range(30):
            files.write(np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8))


def test_unknown_format_is_named() -> None:
    with pytest.raises(UserError, match="'avi'"):
        paths_for(Path("x"), "a", ["mp4", "avi"])


def test_save_video_refuses_before_frames_are_sampled(tmp_path: Path) -> None:
    frames = (np.full((4, 4, 3), level, np.uint8) for level in range(70))
    assert len(np.load(save_video(frames, tmp_path / "a.npz"))["video"]) == 70
    never = iter(lambda: pytest.fail("a frame was taken"), None)
    with pytest.raises(UserError, match="exists and is kept"):
        save_video(never, tmp_path / "a.npz")
    with pytest.raises(UserError, match="ends in .mov"):
        save_video(never, tmp_path / "a.mov")
    for wrong, words in (
        (np.zeros((2, 4, 4, 3)), "float64"),
        ([], "no frames"),
        ([np.zeros((4, 4), np.uint8)], "expected uint8"),
    ):
        with pytest.raises(UserError, match=words):
            save_video(wrong, tmp_path / "b.npz")
    assert [each.name for each in tmp_path.iterdir()] == ["a.npz"]


def test_a_folder_with_other_files_than_frames_is_never_replaced(tmp_path: Path) -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    assert sorted(each.name for each in save_video(frames, tmp_path / "video").iterdir()) == ["000000.png", "000001.png"]
    save_video(frames[:1], tmp_path / "video", overwrite=True)
    (tmp_path / "video" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="exists and is kept"):
        save_video(frames, tmp_path / "video", overwrite=True)
    assert (tmp_path / "video" / "mine.txt").read_text() == "kept" and len(list((tmp_path / "video").iterdir())) == 2


def test_a_resumed_start_removes_what_dead_processes_left(tmp_path: Path) -> None:
    """Files of a running process, of another machine and of other videos stay."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    here, one = os.uname().nodename, tmp_path / "seed0-00001.npz"
    dead = [f".seed0-00001.npz.{here}-{ended.pid}{end}" for end in ("", ".raw")]
    others = [
        f".seed0-00001.npz.{here}-{os.getpid()}",
        f".seed0-00001.npz.elsewhere-{ended.pid}",
        f".seed0-00002.npz.{here}-1.raw",
    ]
    for name in (*dead, *others):
        (tmp_path / name).touch()
    open_output(Output(tmp_path, ["npz"], resume=True), [0, 1], name="a", seed=0, frames=8, fps=8, settings={})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "seed0-settings.json"])
    assert temporary_name(one) == tmp_path / others[0]


@pytest.mark.parametrize("name", ["a.npz", "a.mp4", "a"])
def test_a_folder_that_cannot_be_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write .*file/{name}.* choose another folder"):
        save_video(moving_square(), tmp_path / "file" / name)
    with pytest.raises(UserError, match="path is 'a.x00b.mp4', expected a path"):
        save_video(moving_square(), "a\0b.mp4")
