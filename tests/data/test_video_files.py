"""Two libraries read the same frames, a read that never returns is abandoned, and one look at each file is kept."""

import gc
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path

import av
import imageio
import imageio_ffmpeg
import numpy as np
import pytest
from test_readers import CODECS
from video_files import LENGTH, write_images, write_video

from lvdm.data import VideoFolder
from lvdm.data.layouts.listing import Video
from lvdm.data.probing.probe import VideoFacts, probe, probe_file
from lvdm.data.probing.probe_cache import FILE, ProbeCache
from lvdm.data.reading import readers, video_file
from lvdm.data.reading.time_limit import within
from lvdm.data.reading.video_file import DecordFile, PyavFile, VideoFile
from lvdm.types import UserError


@pytest.mark.parametrize("name", CODECS)
def test_decord_and_pyav_read_the_same_frames_bit_for_bit(name: str, tmp_path: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 99, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
    with imageio.get_writer(tmp_path / name, fps=25, macro_block_size=1, **CODECS[name]) as writer:
        for frame in range(50):
            writer.append_data((np.roll(texture, frame, 1) + frame).astype(np.uint8))
    first, second = DecordFile(tmp_path / name), PyavFile(tmp_path / name)
    assert first.num_frames == second.num_frames == 50 and first.fps == second.fps == 25
    for wanted in (range(50), [31, 4, 17], range(40, 50, 3)):
        assert np.array_equal(first.read(wanted), second.read(wanted))
    assert probe_file(tmp_path / name) == VideoFacts(50, 25.0, 48, 64)


def test_a_width_that_decord_cannot_read_is_read_by_pyav(tmp_path: Path) -> None:
    with imageio.get_writer(tmp_path / "x.mp4", fps=25, macro_block_size=1) as writer:
        for frame in range(8):
            writer.append_data(np.full((48, 72, 3), 10 * frame, np.uint8))
    with pytest.raises(UserError, match="from_size == to_size"):
        DecordFile(tmp_path / "x.mp4").read([2, 5])
    frames = VideoFile(tmp_path / "x.mp4").read([2, 5])
    assert frames.shape == (2, 48, 72, 3) and (frames.mean(axis=(1, 2, 3)) / 10).round().tolist() == [2, 5]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_of_a_turned_telephone_stands_upright_in_both(degrees: int, tmp_path: Path) -> None:
    with imageio.get_writer(tmp_path / "x.mp4", fps=10, macro_block_size=1) as writer:
        for frame in range(6):
            writer.append_data(np.random.default_rng(frame).integers(0, 256, (4, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1))
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", str(degrees)]
    subprocess.run([*ffmpeg, "-i", tmp_path / "x.mp4", "-c", "copy", tmp_path / "turned.mp4"], check=True)
    lying, first, second = (
        library(tmp_path / name).read([4])[0]
        for name, library in (("x.mp4", DecordFile), ("turned.mp4", DecordFile), ("turned.mp4", PyavFile))
    )
    assert np.array_equal(first, second) and np.array_equal(first, np.rot90(lying, degrees // 90))
    facts = probe_file(tmp_path / "turned.mp4")
    assert (facts.height, facts.width) == first.shape[:2]


def write_variable_rate(path: Path) -> None:
    """24 frames, the second half at a quarter of the rate of the first; frame t is grey of level 10 t."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in range(24):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 10 * frame, np.uint8), format="rgb24")
            picture.pts = frame if frame < 12 else 12 + 4 * (frame - 12)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_a_clip_of_a_video_of_variable_rate_goes_by_frames_and_not_by_time(tmp_path: Path) -> None:
    write_variable_rate(tmp_path / "x.mp4")
    for reader in (DecordFile(tmp_path / "x.mp4"), PyavFile(tmp_path / "x.mp4")):
        assert reader.num_frames == 24
        levels = reader.read(range(2, 24, 5)).mean(axis=(1, 2, 3)) / 10
        assert levels.round().tolist() == [2, 7, 12, 17, 22]
        assert 24 / 4 < reader.fps < 24  # the mean of both rates


class Stuck(DecordFile):
    """Opens, and does not come back from the first read."""

    released = threading.Event()
    calls = 0

    def read(self, frames):
        Stuck.calls += 1
        Stuck.released.wait(30)
        return super().read(frames)


def test_a_read_that_never_returns_is_abandoned_and_pyav_reads_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "x.mp4")
    monkeypatch.setattr(video_file, "LIBRARIES", (Stuck, PyavFile))
    video = VideoFile(tmp_path / "x.mp4", time_limit=1.0)
    start = time.perf_counter()
    got = video.read([3, 20])
    assert 1 <= time.perf_counter() - start < 5
    assert np.array_equal(got, DecordFile(tmp_path / "x.mp4").read([3, 20]))
    assert len(VideoFile(tmp_path / "x.mp4", time_limit=1.0).read([5])) == 1 and Stuck.calls == 1, "it is not asked again"
    Stuck.released.set()


def test_what_neither_reads_is_named_once_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.mp4").write_bytes(b"\0" * 999)
    with pytest.raises(UserError) as error:
        VideoFile(tmp_path / "x.mp4")
    assert str(error.value).count("x.mp4") == 1 and "Invalid data" in str(error.value)
    monkeypatch.setattr(video_file, "LIBRARIES", (Stuck,))
    write_video(tmp_path / "y.mp4")
    Stuck.released.clear()
    with pytest.raises(UserError, match="cannot read .*y.mp4: no answer within 0.3 s"):
        VideoFile(tmp_path / "y.mp4", time_limit=0.3).read([0])
    Stuck.released.set()


def test_patience_gives_results_and_errors_as_they_come() -> None:
    assert within(5, lambda: 7, reading="x") == 7
    with pytest.raises(KeyError, match="lost"):
        within(5, lambda: {}["lost"], reading="x")


def test_files_that_never_answer_are_skipped_and_named_before_training_and_within(tmp_path: Path, monkeypatch) -> None:
    """Named pipes that nobody writes to, taken for files: to open one for reading waits for ever, in decord and in PyAV."""
    monkeypatch.setattr(stat, "S_ISREG", lambda mode: True)
    pipes = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    for i in range(1, 4):
        write_video(tmp_path / f"{i}.mp4")
    os.mkfifo(pipes[0])
    data = VideoFolder(tmp_path, num_frames=4, size=8, time_limit=0.5, max_broken=0.5)
    assert data.names == ["1.mp4", "2.mp4", "3.mp4"]
    assert data.usable.broken.reasons == {"0.mp4": f"cannot read {pipes[0]}: no answer within 0.5 s"}
    pipes[1].unlink()
    os.mkfifo(pipes[1])
    assert data[0]["index"] in (1, 2)
    assert data.usable.broken.reasons["1.mp4"] == f"cannot read {pipes[1]}: no answer within 0.5 s"
    for pipe in pipes:  # let the threads that were left behind go on, to an error
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("kind", ["images", "gif", "folder"])
def test_pictures_that_never_answer_are_skipped_and_named_within_the_limit(kind: str, tmp_path: Path, monkeypatch) -> None:
    """A named pipe in place of an image or a gif after the look, or a folder whose list of files does not come."""
    for i in range(3):
        write_images(tmp_path / str(i)) if kind != "gif" else write_video(tmp_path / f"{i}.gif")
    data = VideoFolder(tmp_path, num_frames=4, size=8, time_limit=0.5, random_clip=False, max_broken=0.5)
    place, *_ = (video.location for video in data.usable.videos)
    monkeypatch.setattr(stat, "S_ISREG", lambda mode: True)  # else a pipe is never opened
    pipe, answered = place / "frame11.png" if place.is_dir() else place, threading.Event()
    if kind == "folder":
        listed = readers.image_files
        monkeypatch.setattr(readers, "image_files", lambda at: (at == place and answered.wait(30), listed(at))[1])
    else:
        pipe.unlink()
        os.mkfifo(pipe)
    start = time.perf_counter()
    assert data[1]["index"] == 1 and time.perf_counter() - start < 0.5
    assert data[0]["index"] in (1, 2) and 0.5 <= time.perf_counter() - start < 5
    assert data.usable.broken.reasons == {place.name: f"cannot read {place}: no answer within 0.5 s"}
    answered.set()
    if kind != "folder":
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))


def test_all_reads_are_of_one_thread_until_it_is_left_behind_and_ends() -> None:
    thread, answered = within(5, threading.current_thread, reading="x"), threading.Event()
    assert {within(5, threading.current_thread, reading="x") for _ in range(9)} == {thread}
    with pytest.raises(UserError, match="cannot read x: no answer within 0.1 s"):
        within(0.1, answered.wait, reading="x")
    assert within(5, threading.current_thread, reading="x") is not thread and thread.is_alive()
    answered.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_forked_process_reads_by_a_thread_of_its_own() -> None:
    assert within(5, lambda: 3, reading="x") == 3
    if (child := os.fork()) == 0:
        os._exit(within(5, lambda: 7, reading="x"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_reader_that_failed_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it waits for the garbage collector, a process forked meanwhile would tear down threads that it does not have."""

    class Failing(DecordFile):
        def read(self, frames):
            raise UserError("no frames")

    write_video(tmp_path / "x.mp4")
    monkeypatch.setattr(video_file, "LIBRARIES", (Failing,))
    gc.disable()
    try:
        video = VideoFile(tmp_path / "x.mp4")
        reader = weakref.ref(video._readers[Failing])
        with pytest.raises(UserError, match="no frames"):
            video.read([0])
        del video
        assert reader() is None
    finally:
        gc.enable()


def videos_in(root: Path) -> list[Video]:
    return [Video(path.name, path) for path in sorted(root.iterdir()) if not path.name.startswith(".")]


def test_a_look_is_kept_until_the_file_changes_and_failures_are_looked_at_again(tmp_path: Path, monkeypatch) -> None:
    for name in ("a.mp4", "b.gif"):
        write_video(tmp_path / name)
    write_images(tmp_path / "c", length=5)
    (tmp_path / "d.mp4").write_bytes(b"")
    looked = []
    monkeypatch.setattr("lvdm.data.probing.probe.probe_file", lambda place: (looked.append(place.name), probe_file(place))[1])

    def frames() -> list[int | str]:
        looked.clear()
        return [look if isinstance(look, str) else look.num_frames for look in probe(videos_in(tmp_path), tmp_path)]

    *good, why = frames()
    assert good == [LENGTH, LENGTH, 5] and "cannot read" in why and "d.mp4" in why
    assert sorted(looked) == ["a.mp4", "b.gif", "c", "d.mp4"]
    assert frames()[:3] == good and looked == ["d.mp4"]
    write_video(tmp_path / "a.mp4", length=7)
    os.remove(tmp_path / "c" / "frame4.png")
    assert frames()[:3] == [7, LENGTH, 4] and sorted(looked) == ["a.mp4", "c", "d.mp4"]


def test_where_the_data_cannot_be_written_looks_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE).mkdir()  # stands for a folder that is closed: root, who may run this, is refused nowhere
    cache = ProbeCache(tmp_path / "data")
    cache.add("x", [1, 2], [24])
    cache.save()
    assert ProbeCache(tmp_path / "data").get("x", [1, 2]) == [24] and ProbeCache(tmp_path / "data").get("x", [1, 3]) is None
    (written,) = (tmp_path / "cache" / "lvdm").glob("*.json")
    written.write_text(json.dumps({"entries": 3}))
    assert ProbeCache(tmp_path / "data").get("x", [1, 2]) is None, "a damaged cache is made anew"


def test_probing_leaves_no_lock_behind(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with ProbeCache(tmp_path / "videos").locked():
        assert len(list((tmp_path / "temporary").iterdir())) == 1
    assert not list((tmp_path / "temporary").iterdir())


def test_processes_that_start_together_look_once_and_keep_all(tmp_path: Path) -> None:
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", length=5 + i)
    code = (
        "import sys; from pathlib import Path; import lvdm.data.probing.probe as s\n"
        "from lvdm.data.layouts.listing import find_videos, Video\n"
        f"root = Path({str(tmp_path)!r}); say = lambda name: sys.stdout.write(name + ' ')\n"  # at once, for threads say it
        "look, s.probe_file = s.probe_file, lambda place: (say(place.name), look(place))[1]\n"
        "s.probe([Video(name, root / name) for name in find_videos(root)], root)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    looked = [name for process in started for name in process.communicate(timeout=100)[0].split()]
    assert sorted(looked) == [f"{i}.mp4" for i in range(6)]
    entries = json.loads((tmp_path / FILE).read_text())["entries"]
    assert {name: value[0] for name, (_, value) in entries.items()} == {f"{i}.mp4": 5 + i for i in range(6)}


def test_with_workers_the_training_process_never_loads_decord(tmp_path: Path) -> None:
    for i in range(4):
        write_video(tmp_path / f"{i}.mp4")
    code = (
        "import sys; from lvdm.data import VideoData, VideoFolder\n"
        f"data = VideoData(VideoFolder({str(tmp_path)!r}, num_frames=4, size=8), batch_size=2, num_workers=1)\n"
        "assert len(list(data.train_dataloader())) == 2\n"
        "assert 'decord' not in sys.modules and 'av' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
