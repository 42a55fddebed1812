"""`check_data`: look at every video of a config's data sets; facts about them, and a contact sheet of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lvdm.config import instantiate
from lvdm.data import Draw, VideoData, VideoFolder
from lvdm.jobs.run_config import read_run_config
from lvdm.jobs.settings import Config, Overrides
from lvdm.jobs.train import run_folder
from lvdm.sampling.pipeline import to_uint8
from lvdm.sampling.writers import ContactSheet
from lvdm.types import UserError

ROWS, COLUMNS = 8, 8  # of a contact sheet, at most: samples, and frames of each


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set; figures are those of the usable videos."""

    root: str
    videos: int
    of: int  # the broken and the short ones included
    samples: int  # of an epoch
    frames: int
    hours: float
    length: dict[str, float]  # frames of a video: least, median, most
    sizes: dict[str, int]  # width x height, and how many videos; the most frequent first
    rates: dict[str, int]  # frames per second, likewise
    captions: int
    classes: int
    skipped: dict[str, str]  # names of the unusable videos, and why
    max_broken: float  # the fraction that may be skipped
    contact_sheet: str

    @property
    def has_too_many_skipped(self) -> bool:
        return len(self.skipped) > self.max_broken * self.of


def check_data(
    config: Config, overrides: Overrides = None, *, name: str | None = None, allow: Sequence[str] = ()
) -> dict[str, DataFacts]:
    """Return the facts about train and val, and write RUN_train.png and RUN_val.png next to the run's folder.

    The arguments are those of `train`. Too many broken videos are no error here, so that all are named: see `require_usable`.
    """
    run = read_run_config(config, overrides, allow=allow)
    folder = run_folder(run, config, name).path
    data: VideoData = instantiate(run.data, allow=allow)
    facts = {}
    for part, videos in (("train", data.train), ("val", data.val)):
        if videos is None:
            continue
        if not isinstance(videos, VideoFolder):
            kind = type(videos).__name__
            raise UserError(f"check_data looks at videos, but data.params.{part} is {kind}; check an lvdm.data.VideoFolder")
        facts[part] = _facts(videos, folder.with_name(f"{folder.name}_data_{part}.png"))
    return facts


def require_usable(facts: dict[str, DataFacts]) -> None:
    """Refuse data sets with more broken videos than their max_broken allows."""
    named = [
        f"{len(each.skipped)} of {each.of} videos of {part} (max_broken={each.max_broken:g})"
        for part, each in facts.items()
        if each.has_too_many_skipped
    ]
    if named:
        raise UserError(f"too many videos cannot be used: {', '.join(named)}; repair or remove them, or raise max_broken")


def _facts(data: VideoFolder, sheet: Path) -> DataFacts:
    max_broken, data.max_broken = data.max_broken, 1.0
    found = data.usable
    lengths = [facts.num_frames for facts in found.facts]
    rates = [facts.fps for facts in found.facts]
    known = [video.description for video in found.videos]
    seconds = sum(length / rate for length, rate in zip(lengths, rates, strict=True) if rate)
    _write_sheet(data, sheet)
    return DataFacts(
        root=str(data.root),
        videos=len(found.videos),
        of=len(found.listed),
        samples=len(data),
        frames=sum(lengths),
        hours=seconds / 3600,
        length={"least": min(lengths), "median": median(lengths), "most": max(lengths)},
        sizes=_count(f"{facts.width}x{facts.height}" for facts in found.facts),
        rates=_count(f"{rate:.4g}" for rate in rates),
        captions=sum(bool(each.caption) for each in known),
        classes=len({each.label for each in known if each.label is not None and each.label >= 0}),
        skipped=dict(found.broken.reasons),
        max_broken=max_broken,
        contact_sheet=str(sheet),
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _write_sheet(data: VideoFolder, path: Path) -> None:
    """Draw samples of epoch 0 as training sees them: a row each, spread over the data set, frames from left to right."""
    sheet = ContactSheet(path, every=-(-data.num_frames // COLUMNS), overwrite=True)
    for row, sample in enumerate(sorted({row * len(data) // ROWS for row in range(ROWS)})):
        sheet.write(row, to_uint8(data[Draw(0, sample)]["video"][None])[0])
    sheet.close()
