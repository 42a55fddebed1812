"""The result of a text-to-video measurement: how well videos show their prompts, with all that it depends on, as a JSON file.

There is no protocol to it: two such numbers can be compared where one network read the same prompts and as many frames.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lvdm.evaluation.results.records import read_whole, record
from lvdm.evaluation.results.result import ExtractorFacts, FakeSource, Result, Value, now, package_versions, read_result
from lvdm.types import UserError

FORMAT = 1


@dataclass(frozen=True)
class TextResult:
    """Values under names that tell the network, such as "clip_similarity_vit-base-patch32"."""

    values: dict[str, Value]
    network: ExtractorFacts
    num_videos: int
    frames: tuple[int, int]  # of the shortest and the longest video; all of them are looked at
    prompts_sha256: str  # of each video's prompt, in order
    fake: FakeSource
    machine: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=package_versions)
    date: str = field(default_factory=now)

    @property
    def metrics(self) -> dict[str, Value]:
        return self.values

    def is_comparable(self, name: str) -> bool:
        """Whether the number of this name means something beside those of others."""
        return self.network.is_comparable

    def conditions(self, other: TextResult) -> list[tuple[str, object, object]]:
        """All in which the measurements differ, the videos themselves left out: what, here and there."""
        pairs = [
            (f"network {f.name}", getattr(self.network, f.name), getattr(other.network, f.name)) for f in fields(self.network)
        ]
        pairs += [(key, getattr(self, key), getattr(other, key)) for key in ("num_videos", "frames", "prompts_sha256")]
        return [pair for pair in pairs if pair[1] != pair[2]]

    def as_dict(self) -> dict[str, Any]:
        return {"lvdm_text_result": FORMAT, "metrics": {name: asdict(value) for name, value in self.values.items()}} | {
            key: value for key, value in asdict(self).items() if key != "values"
        }


def prompts_sha256(prompts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()


def read_any_result(path: str | Path) -> Result | TextResult:
    """What `write_result` wrote, of either kind."""
    try:
        said = json.loads(read_whole(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}); give the file of a result") from error
    if not isinstance(said, dict) or said.get("lvdm_text_result") != FORMAT:
        return read_result(path)
    try:
        values = {name: record(Value, value, f"{path}: {name}") for name, value in said["metrics"].items()}
        facts = {
            "network": record(ExtractorFacts, said["network"], f"{path}: network"),
            "fake": record(FakeSource, said["fake"], f"{path}: fake"),
            "frames": tuple(said["frames"]),
        }
        plain = {key: said[key] for key in ("num_videos", "prompts_sha256", "machine", "packages", "date")}
        return TextResult(values=values, **facts, **plain)
    except (KeyError, AssertionError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is a damaged result ({error}); measure anew") from error
