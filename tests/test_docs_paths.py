"""Every path and link that the README, the changelog and the pages of docs/ name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OF_OTHERS = ("protocols.md", "published-settings.md")  # they cite paths of other repositories
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"(?<![\w./:-])((?:configs|docs|lvdm|scripts|shellscripts|tests)/[\w./*-]*\w)")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_path_and_link_exists(page: Path) -> None:
    text = page.read_text()
    named = set() if page.name in OF_OTHERS else set(NAMED.findall(text))
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []
