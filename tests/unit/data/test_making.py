"""The commands that make sources are those of the page on data, and take the options that `pack` has."""

import re
import shlex
from pathlib import Path

import pytest

from dragonfly_lit.app.check import REPOSITORIES
from dragonfly_lit.app.overrides import CONF
from dragonfly_lit.data.making import PACK, how_to_make

ROOT = Path(__file__).resolve().parents[3]


def test_the_table_of_the_page_has_the_same_commands():
    table = (ROOT / "data_prep/README.md").read_text().partition("## Sources of the mixes")[2]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    found = {
        name.split("/")[0]: row.split("|")[-2].strip(" `")
        for row in rows
        for name in re.findall(r"`([\w/]+)`", row.split("|")[1])
    }
    assert {name: f"pack {given}" for name, given in PACK.items() if name != "mine"} | {"easy_vqa": "demo"} == found


@pytest.mark.parametrize(
    "name", re.findall(r"\{data_root\}/([\w/]+)", "".join(p.read_text() for p in (CONF / "data").glob("*.yaml")))
)
def test_every_source_of_a_configuration_has_a_command(name):
    words = shlex.split(how_to_make(f"data/{name}"))
    assert "FORMAT" not in words
    assert words[:3] == ["python", "-m", "data_prep"]
    assert words[3] in ("demo", "probes") or f"data/{name}" in words


def test_repositories_are_those_of_the_sizes_that_ship():
    page = (ROOT / "src/dragonfly_lit/models/known_configs/README.md").read_text()
    assert dict(re.findall(r"\| `([^`]+)` \| ([\w./-]+)", page)) == REPOSITORIES
