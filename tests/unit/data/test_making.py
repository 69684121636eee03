"""The commands that make sources are those of the page on data, and take the options that `pack` has."""

import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    assert words[3] in ("demo", "probes", "pages") or f"data/{name}" in words


@pytest.mark.parametrize("part", ["val", "validation", "test"])
@pytest.mark.parametrize("name", sorted(PACK))
def test_what_is_not_trained_on_is_not_made_of_the_files_to_train_on(name, part):
    given, held_out = (how_to_make(f"data/{name}{below}") for below in ("", f"/{part}"))
    assert f"--out data/{name}/{part} --source {name} " in held_out
    files = [set(re.findall(r"\S+\.\w+", command.partition(" --out ")[0])) for command in (given, held_out)]
    assert all(name.startswith("FILE.") for name in files[0] & files[1])
    assert "train" not in held_out.partition(" --out ")[0]


@settings(max_examples=60, deadline=None)
@given(
    folder=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8),
    name=st.sampled_from([*sorted(PACK), "mine too"]),
)
def test_a_path_of_any_letters_is_one_word_of_the_command(folder, name):
    words = shlex.split(how_to_make(f"{folder}/{name}"))
    assert words[words.index("--out") + 1] == f"{folder}/{name}"
