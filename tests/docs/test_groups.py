"""The table of the configuration's groups has every group, and every choice of each."""

import re

import pytest
from docs_pages import ROOT

LISTED_ELSEWHERE = {"benchmark"}  # has a page of its own, tested there
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "docs/getting_started.md").read_text(), re.MULTILINE))
GROUPS = {folder.name: folder for folder in (ROOT / "conf").iterdir() if list(folder.glob("*.yaml"))}


def test_every_group_has_a_row():
    assert set(GROUPS) <= set(ROWS)


@pytest.mark.parametrize("group", sorted(GROUPS.keys() - LISTED_ELSEWHERE))
def test_a_row_has_every_choice(group):
    choices = {file.stem for file in GROUPS[group].glob("*.yaml") if not file.stem.startswith("_")}
    assert choices
    assert choices <= set(re.findall(r"`(\w+)`", ROWS[group]))
