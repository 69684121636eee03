"""The table of what fits is what `plan` says."""

import re
import shlex

import pytest
from docs_pages import ROOT

from dragonfly_lit.app.plan import main

TABLE = (ROOT / "docs/clusters.md").read_text().partition("## What fits")[2].partition("\n## ")[0]
ROWS = re.findall(r"\| ([\d.]+) \| `python -m dragonfly_lit plan ([^`]+)` \|", TABLE)


def test_the_table_is_read():
    assert len(ROWS) >= 7


@pytest.mark.parametrize(("gigabytes", "arguments"), ROWS)
def test_a_row_is_what_plan_says(gigabytes, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(arguments)) == 0
    assert f"memory   {gigabytes} GB of a GPU" in capsys.readouterr().out
