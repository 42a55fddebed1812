"""The manifest of a measurement: which clips were measured, with the hash of each one's pixels. Real ones can be replayed.

A file of JSON lines. The first says the protocol, the data set's fingerprint and how many clips follow; then one line a clip:
file, first frame, stride, frames, run, and the sha256 of its uint8 pixels after all preprocessing, before the extractor.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvdm.evaluation.protocols.clip_choice import Clip, Side, frame_numbers
from lvdm.evaluation.protocols.named import read_protocol
from lvdm.evaluation.protocols.protocol import EvalProtocol, differences
from lvdm.evaluation.results.records import read_whole, record, write_content
from lvdm.types import UserError

FORMAT = 1


@dataclass(frozen=True)
class ManifestClip:
    """One line: a clip of the real set as it was measured."""

    file: str  # within the data set, never an absolute path
    start: int
    stride: int
    frames: int
    sha256: str
    run: int = 0

    def frame_numbers(self) -> range:
        """Return the frames of its video."""
        return range(self.start, self.start + self.frames * self.stride, self.stride)


@dataclass(frozen=True)
class Manifest:
    """All clips of all runs, in the order in which they were measured."""

    protocol: EvalProtocol
    data: str  # fingerprint of the data set
    clips: tuple[ManifestClip, ...]

    def of_run(self, run: int) -> list[ManifestClip]:
        """Return the clips of a run, in their order."""
        return [clip for clip in self.clips if clip.run == run]

    def sha256(self) -> str:
        """Return the hash of the clips' lines, equal if the same pixels were measured in the same order."""
        return hashlib.sha256(self._lines().encode()).hexdigest()

    def text(self) -> str:
        """Return the content of its file."""
        header = {"lvdm_manifest": FORMAT, "clips": len(self.clips), "data": self.data, "protocol": self.protocol.as_dict()}
        return f"{json.dumps(header, ensure_ascii=False)}\n{self._lines()}"

    def check_protocol(self, protocol: EvalProtocol) -> None:
        """Refuse to replay a manifest under another protocol than its own."""
        if found := differences(self.protocol, protocol):
            raise UserError(f"the manifest was made under another protocol: {'; '.join(found)}; replay it under its own")

    def _lines(self) -> str:
        return "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in self.clips)


def measured(clip: Clip, file: str, sha256: str, protocol: EvalProtocol, *, of: Side = "real", run: int = 0) -> ManifestClip:
    """Return the line of a chosen clip, with the hash of its pixels as the extractor gets them."""
    return ManifestClip(file, clip.start, frame_numbers(clip, protocol, of).step, protocol.frames, sha256, run)


def pixels_sha256(pixels: np.ndarray) -> str:
    """Return the hash of levels (t, h, w, 3), uint8 or float32, and of their shape."""
    pixels = np.asarray(pixels)
    assert pixels.dtype in (np.uint8, np.float32) and pixels.ndim == 4, f"pixels {pixels.dtype} {pixels.shape}"
    return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def check_clip(clip: ManifestClip, found: str) -> None:
    """Refuse a replayed clip whose pixels do not have the hash of those that were measured."""
    if found != clip.sha256:
        raise UserError(
            f"{clip.file} from frame {clip.start} has other pixels than the manifest says (sha256 {found[:12]}, expected "
            f"{clip.sha256[:12]}): the file, its decoder or the resizing has changed; use those of the manifest or measure again"
        )


def write_manifest(path: str | Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    write_content(path, manifest.text())


def read_manifest(path: str | Path) -> Manifest:
    """Return a manifest that is whole and fits its own protocol; an error names its line."""
    lines = read_whole(path).splitlines()
    header = _json(path, 1, lines[0] if lines else "")
    if not isinstance(header, dict) or header.get("lvdm_manifest") != FORMAT:
        raise UserError(f"{path}, line 1: this is no manifest that lvdm wrote in format {FORMAT}; give the file of a measurement")
    try:
        protocol = read_protocol(header["protocol"])
        data, count = header["data"], header["clips"]
    except (KeyError, UserError) as error:
        raise UserError(f"{path}, line 1: the header does not hold a protocol and its data ({error}); make it again") from error
    if len(lines) - 1 != count:
        raise UserError(f"{path} holds {len(lines) - 1} clips and its header says {count}; it was cut short: make it again")
    clips = (_clip(path, number, line, protocol) for number, line in enumerate(lines[1:], 2))
    return Manifest(protocol, data, tuple(clips))


def _clip(path: str | Path, number: int, line: str, protocol: EvalProtocol) -> ManifestClip:
    where = f"{path}, line {number}"
    clip = record(ManifestClip, _json(path, number, line), where)
    if (clip.frames, clip.stride) != (protocol.frames, protocol.stride):
        wanted = f"{protocol.frames} frames at stride {protocol.stride}"
        raise UserError(f"{where}: {clip.frames} frames at stride {clip.stride}, but its protocol takes {wanted}; make it again")
    if clip.start < 0 or not 0 <= clip.run < protocol.runs or not re.fullmatch("[0-9a-f]{64}", clip.sha256):
        raise UserError(f"{where}: start, run or sha256 is not what a measurement writes; make the manifest again")
    return clip


def _json(path: str | Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {number}: no JSON ({error.msg}); the file was cut short or changed") from error
