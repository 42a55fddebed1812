"""The manifest of measured clips: replayed it names what changed, and a damaged one is told by its line."""

import json
from pathlib import Path

import numpy as np
import pytest

from lvdm.evaluation.protocols.clip_choice import choose_clips
from lvdm.evaluation.protocols.manifest import Manifest, check_clip, measured, pixels_sha256, read_manifest, write_manifest
from lvdm.evaluation.protocols.named import get_protocol
from lvdm.types import UserError

PROTOCOL = get_protocol("lvdm-fvd2048", frames=4, stride=2, runs=2)
LENGTHS = [7, 12, 9, 30]


def video(number: int) -> np.ndarray:
    return np.random.RandomState(number).randint(0, 256, (LENGTHS[number], 8, 6, 3)).astype(np.uint8)


def manifest() -> Manifest:
    lines = []
    for run in range(2):
        for clip in choose_clips(LENGTHS, PROTOCOL, of="real", count=3, run=run):
            pixels = video(clip.video)[clip.start : clip.start + 8 : 2][:4]
            lines.append(measured(clip, f"class/{clip.video}.mp4", pixels_sha256(pixels), PROTOCOL, run=run))
    return Manifest(PROTOCOL, "fingerprint", tuple(lines))


def test_a_manifest_read_back_replays_every_clip(tmp_path: Path) -> None:
    write_manifest(tmp_path / "new" / "real.jsonl", manifest())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["real.jsonl"]
    read = read_manifest(tmp_path / "new" / "real.jsonl")
    assert read == manifest() and read.sha256() == manifest().sha256()
    assert [len(read.of_run(run)) for run in range(2)] == [3, 3]
    for line in read.clips:
        pixels = video(int(line.file[6]))
        check_clip(line, pixels_sha256(pixels[list(line.frame_numbers())]))
        with pytest.raises(UserError, match=f"class/{line.file[6]}.mp4 from frame {line.start} has other pixels"):
            check_clip(line, pixels_sha256(pixels[list(line.frame_numbers())] ^ 1))


def test_a_hash_sees_each_pixel_and_the_shape_but_not_how_it_lies_in_memory() -> None:
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    assert pixels_sha256(pixels) == pixels_sha256(np.asfortranarray(pixels))
    other = pixels.copy()
    other[1, 3, 5, 2] += 1
    assert len({pixels_sha256(each) for each in (pixels, other, pixels.reshape(2, 6, 4, 3), pixels[:1])}) == 4


def test_a_manifest_is_replayed_under_its_own_protocol() -> None:
    manifest().check_protocol(PROTOCOL)
    with pytest.raises(UserError, match="seed 0 and 1"):
        manifest().check_protocol(get_protocol("lvdm-fvd2048", frames=4, stride=2, runs=2, seed=1))


def change(line: int, **fields: object):
    def changed(lines: list[str]) -> list[str]:
        said = json.loads(lines[line]) | fields
        return [*lines[:line], json.dumps({key: value for key, value in said.items() if value != "gone"}), *lines[line + 1 :]]

    return changed


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: lines[:-1], "holds 5 clips and its header says 6"),
        (lambda lines: [*lines[:-1], lines[-1][:30]], "line 7: no JSON"),
        (lambda lines: [], "line 1: no JSON"),
        (lambda lines: lines[1:], "line 1: this is no manifest"),
        (change(0, lvdm_manifest=2), "line 1: this is no manifest"),
        (change(0, protocol={"name": "mine"}), "line 1: the header does not hold a protocol"),
        (change(2, sha256="gone"), "line 3 lacks sha256"),
        (change(2, length=4), "line 3 has a field length"),
        (change(2, start="0"), "line 3: start is '0', expected int"),
        (change(2, start=-1), "line 3: start, run or sha256"),
        (change(2, sha256="abc"), "line 3: start, run or sha256"),
        (change(2, run=2), "line 3: start, run or sha256"),
        (change(2, frames=16), "line 3: 16 frames at stride 2, but its protocol takes 4 frames at stride 2"),
    ],
)
def test_a_damaged_manifest_is_told_by_its_line(tmp_path: Path, damage, words: str) -> None:
    path = tmp_path / "real.jsonl"
    path.write_text("".join(line + "\n" for line in damage(manifest().text().splitlines())))
    with pytest.raises(UserError, match=words):
        read_manifest(path)


def test_a_named_protocol_with_other_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "real.jsonl"
    named = get_protocol("latte").as_dict() | {"stride": 1}
    path.write_text(json.dumps({"lvdm_manifest": 1, "clips": 0, "data": "", "protocol": named}) + "\n")
    with pytest.raises(UserError, match="calls itself latte v1 but has stride 3 and 1"):
        read_manifest(path)


def test_what_cannot_be_written_or_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*choose another folder"):
        write_manifest(tmp_path / "file" / "real.jsonl", manifest())
    with pytest.raises(UserError, match="cannot read .*No such file"):
        read_manifest(tmp_path / "none.jsonl")
