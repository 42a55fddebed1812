"""Files: what may not be replaced, and a lock that leaves nothing behind."""

import os
import threading
from pathlib import Path

import pytest

from lvdm.files import locked, write_whole


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_a_folder_or_special_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    before = path.stat()
    with pytest.raises(IsADirectoryError, match="it is a folder or a special file"):
        write_whole(path, lambda part: part.write_text("x"))
    assert os.path.samestat(path.stat(), before) and os.listdir(tmp_path) == ["it"]


def test_a_lock_is_held_by_one_at_a_time_and_removed(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(50):
            with locked(tmp_path / "lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                assert (tmp_path / "lock").exists()
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [0] and most == [1] and not list(tmp_path.iterdir())
