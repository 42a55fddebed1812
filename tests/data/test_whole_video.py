"""One video as an array: the frames that were requested, at the size that was requested."""

from pathlib import Path

import pytest
import torch
from video_files import LENGTH, frames_seen, write_images, write_video

from lvdm.data.reading.options import ReadingOptions
from lvdm.data.whole_video import read_video
from lvdm.types import UserError


def test_a_video_and_a_folder_of_images_are_read_whole_or_in_part(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    write_images(tmp_path / "b")
    for path in (tmp_path / "a.mp4", tmp_path / "b"):
        whole = read_video(path)
        assert whole.shape == (LENGTH, 32, 32, 3) and frames_seen(torch.from_numpy(whole)) == list(range(LENGTH))
        assert read_video(path, frames=5, size=(8, 16)).shape == (5, 8, 16, 3)
        assert len(read_video(path, at_most=7)) == 7 and len(read_video(path, frames=5, at_most=7)) == 5
    assert frames_seen(torch.from_numpy(read_video(tmp_path / "a.mp4", reading=ReadingOptions(fps=6)))) == list(
        range(0, LENGTH, 2)
    )


@pytest.mark.parametrize(("options", "words"), [({"frames": 25}, "25 frames were requested"), ({"frames": 0}, "frames is 0")])
def test_what_the_video_has_not_is_refused(options: dict[str, int], words: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=words):
        read_video(tmp_path / "a.mp4", **options)
    with pytest.raises(UserError, match="there is no"):
        read_video(tmp_path / "nothing.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match="broken.mp4"):
        read_video(tmp_path / "broken.mp4")
