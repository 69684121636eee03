"""What is printed into a pipe is whole; a terminal's width, or COLUMNS, is kept."""

import pytest
from rich.table import Table

from dragonfly_lit.io.console import standard_output

NAME = "a benchmark with a long name and a number " * 3


@pytest.mark.parametrize(("columns", "whole"), [(None, True), ("60", False)])
def test_a_piped_table_is_not_cut(monkeypatch, capsys, columns, whole):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    table = Table(NAME.strip())
    table.add_row("1")
    standard_output().print(table)
    printed = capsys.readouterr().out
    assert (NAME.strip() in printed) is whole
    assert all(len(line) <= int(columns or 200) for line in printed.splitlines())
