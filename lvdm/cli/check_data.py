"""`scripts/train.py CONFIG --check-data`: what the data sets of a config hold, in words, numbers and a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig

from lvdm.config import instantiate
from lvdm.data import Draw, VideoData, VideoFolder
from lvdm.sampling.pipeline import to_uint8
from lvdm.sampling.writers import ContactSheet
from lvdm.types import UserError

ROWS, COLUMNS = 8, 8  # of a contact sheet, at most: samples, and frames of each
NAMED = 20  # skipped videos that are printed; --json has all
COMMON = 3  # sizes and rates that are printed


def check_data(config: DictConfig, sheets: Path, *, allow: list[str]) -> dict[str, Any]:
    """Looks at every video of train and val; writes `<sheets>_train.png` and `<sheets>_val.png` and nothing else."""
    data: VideoData = instantiate(config.data, allow=allow)
    report, refused = {}, []
    for name, part in (("train", data.train), ("val", data.val)):
        if part is None:
            continue
        if not isinstance(part, VideoFolder):
            kind = type(part).__name__
            raise UserError(f"--check-data looks at videos, but data.params.{name} is {kind}; check lvdm.data.VideoFolder")
        allowed, part.max_broken = part.max_broken, 1.0  # too many broken videos are an error, but after they were named
        report[name] = {**facts_of(part), "contact_sheet": str(write_sheet(part, Path(f"{sheets}_{name}.png")))}
        print_facts(name, report[name])
        if len(report[name]["skipped"]) > allowed * report[name]["of"]:
            refused.append(f"{len(report[name]['skipped'])} of {report[name]['of']} videos of {name} (max_broken={allowed:g})")
    if refused:
        raise UserError(f"too many videos cannot be used: {', '.join(refused)}; mend or remove them, or raise max_broken")
    return {"check_data": report}


def facts_of(data: VideoFolder) -> dict[str, Any]:
    """Of the videos that can be used; the skipped ones by name, with the reason."""
    found = data.usable
    lengths = [facts.num_frames for facts in found.facts]
    rates = [facts.fps for facts in found.facts]
    known = [video.description for video in found.videos]
    seconds = sum(length / rate for length, rate in zip(lengths, rates, strict=True) if rate)
    return {
        "root": str(data.root),
        "videos": len(found.videos),
        "of": len(found.listed),
        "samples of an epoch": len(data),
        "frames": sum(lengths),
        "hours": seconds / 3600,
        "length": {"least": min(lengths), "median": median(lengths), "most": max(lengths)},
        "sizes": count(f"{facts.width}x{facts.height}" for facts in found.facts),
        "rates": count(f"{rate:.4g}" for rate in rates),
        "captions": sum(bool(each.caption) for each in known),
        "classes": len({each.label for each in known if each.label is not None and each.label >= 0}),
        "skipped": dict(found.broken.reasons),
    }


def count(values: Any) -> dict[str, int]:
    """How many of each, the most frequent first."""
    return dict(Counter(values).most_common())


def print_facts(name: str, facts: dict[str, Any]) -> None:
    length, skipped = facts["length"], facts["skipped"]
    print(f"{name}: {facts['root']}")
    rows = {
        "videos": f"{facts['videos']:,} of {facts['of']:,}, {facts['samples of an epoch']:,} samples of an epoch",
        "frames": f"{facts['frames']:,} ({facts['hours']:.2f} hours)",
        "frames of a video": f"{length['least']} to {length['most']}, median {length['median']:g}",
        "width x height": common(facts["sizes"]),
        "frames per second": common(facts["rates"]),
        "captions": f"{facts['captions']:,}",
        "classes": f"{facts['classes']:,}",
        "contact sheet": facts["contact_sheet"],
        "skipped": f"{len(skipped):,}",
    }
    for row, text in rows.items():
        print(f"  {row:<18} {text}")
    for why in list(skipped.values())[:NAMED]:
        print(f"    {why}")
    if len(skipped) > NAMED:
        print(f"    and {len(skipped) - NAMED:,} more, which --json FILE names")


def common(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{value} ({number:,})" for value, number in list(counts.items())[:COMMON])
    return f"{shown}, {len(counts) - COMMON} others" if len(counts) > COMMON else shown


def write_sheet(data: VideoFolder, path: Path) -> Path:
    """Samples of epoch 0, spread over the data set, as training sees them: a row each, frames from left to right."""
    sheet = ContactSheet(path, every=-(-data.num_frames // COLUMNS), overwrite=True)
    for row, sample in enumerate(sorted({row * len(data) // ROWS for row in range(ROWS)})):
        sheet.write(row, to_uint8(data[Draw(0, sample)]["video"][None])[0])
    sheet.close()
    return path
