"""The shipped configs of Sky, UCF-101 and TaiChi-HD against docs/published-settings.md, row by row, and the other way round."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lvdm.config import instantiate

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: path for path in sorted((ROOT / "configs" / "lvdm").glob("*.yaml"))}
SETS = ("sky", "ucf101", "taichi")
NAMES = [f"{stage}_{data}" for stage in ("autoencoder", "short") for data in SETS] + ["predict_sky", "infill_sky"]
TEXT = (ROOT / "docs" / "published-settings.md").read_text()
CELL = re.compile(r"`([^`]*)`")


@dataclass(frozen=True)
class Row:
    configs: list[str]
    key: str
    published: str
    ours: str
    source: str

    @property
    def is_equal(self) -> bool:
        return self.published == self.ours or (self.published, self.ours) == ("none", "absent")


@dataclass(frozen=True)
class Entry:
    value: Any
    line: int


def rows() -> list[Row]:
    found = []
    for line in TEXT.splitlines():
        if line.startswith("| `"):
            configs, key, published, ours = CELL.findall(line)[:4]
            names = [name for name in NAMES if any(fnmatch(name, pattern) for pattern in configs.split())]
            found.append(Row(names, key, published, ours, line.split("|")[5].strip()))
    return found


def entries(name: str) -> dict[str, Entry]:
    """Return every node of a config below its dotted key, with the number of its line."""
    found: dict[str, Entry] = {}

    def walk(node: yaml.Node, key: str, line: int) -> None:
        found[key] = Entry(yaml.safe_load(yaml.serialize(node)), line)
        if isinstance(node, yaml.MappingNode):
            for child, value in node.value:
                walk(value, f"{key}.{child.value}".lstrip("."), child.start_mark.line)
        if isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                walk(value, f"{key}.{number}", value.start_mark.line)

    walk(yaml.compose(CONFIGS[name].read_text()), "", 0)
    return found


ROWS, ENTRIES = rows(), {name: entries(name) for name in NAMES}


def comment(name: str, line: int) -> str:
    return CONFIGS[name].read_text().splitlines()[line].partition(" # ")[2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.key}-{row.ours}")
def test_a_config_has_our_value_and_says_where_it_differs(row: Row) -> None:
    assert row.configs, "no such config"
    for name in row.configs:
        entry = ENTRIES[name].get(row.key)
        if row.ours == "absent":
            assert entry is None, f"{name}: {row.key} is {entry}"
            continue
        assert entry is not None and entry.value == yaml.safe_load(row.ours), f"{name}: {row.key} is {entry}"
        said = comment(name, entry.line)
        if row.is_equal:
            assert "published:" not in said or _differs_here(name, entry.line), f"{name}: {row.key} says {said}"
        else:
            assert re.fullmatch(re.escape(f"published: {row.published}") + r"(,|;| ).{15,}", said), (
                f"{name}: {row.key} says {said!r}"
            )


def _differs_here(name: str, line: int) -> bool:
    """Another key of the same line differs."""
    here = {key for key, entry in ENTRIES[name].items() if entry.line == line}
    return any(name in row.configs and row.key in here and not row.is_equal for row in ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_every_difference_that_a_config_tells_is_in_the_table(name: str) -> None:
    for number, line in enumerate(CONFIGS[name].read_text().splitlines()):
        assert "published:" not in line or _differs_here(name, number), line


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_in_the_table_or_named_as_ours(name: str) -> None:
    """So that a new key cannot differ silently."""
    ours = CELL.findall(TEXT.partition("## Ours alone")[2].replace("\n", " "))
    told = {row.key for row in ROWS if name in row.configs} | set(ours)
    leaves = {key for key, entry in ENTRIES[name].items() if not isinstance(entry.value, dict | list)}
    silent = {key for key in leaves if not any(key == each or key.startswith(f"{each}.") for each in told)}
    parts = ("target", "seed")  # of nodes whose settings are in the table
    assert {key for key in silent if key.rpartition(".")[2] not in parts} == set()


@pytest.mark.parametrize("stage", ["predict", "infill"])
@pytest.mark.parametrize("data", ["ucf101", "taichi"])
def test_what_is_published_for_sky_only_is_skys_with_the_data_of_short(stage: str, data: str) -> None:
    sky, short, made = (
        yaml.safe_load(CONFIGS[name].read_text()) for name in (f"{stage}_sky", f"short_{data}", f"{stage}_{data}")
    )
    for part in ("train", "val"):
        params = made["data"]["params"][part]["params"]
        frames = sky["data"]["params"][part]["params"]["num_frames"]
        assert params == {**short["data"]["params"][part]["params"], "num_frames": frames}
        made["data"]["params"][part] = sky["data"]["params"][part]
    codec = made["model"]["params"]["codec"]
    assert codec == short["model"]["params"]["codec"]
    made["model"]["params"]["codec"], made["define"], made["sampling"]["fps"] = (
        sky["model"]["params"]["codec"],
        sky["define"],
        sky["sampling"]["fps"],
    )
    assert made == sky


def test_what_the_configs_build_is_torchs_and_as_published() -> None:
    """AdamW's decay is torch's default, and the level of given frames has 251 rows."""
    node = yaml.safe_load(CONFIGS["predict_sky"].read_text())["model"]["params"]
    optimizer = instantiate(node["optimizer"]).build([torch.nn.Parameter(torch.zeros(2))])
    torchs = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=8e-5)
    names = ("lr", "betas", "eps", "weight_decay")
    assert type(optimizer) is torch.optim.AdamW
    assert [optimizer.param_groups[0][name] for name in names] == [torchs.param_groups[0][name] for name in names]
    with torch.device("meta"):
        assert instantiate(node["denoiser"]).label_emb.num_embeddings == 251
