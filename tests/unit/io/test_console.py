"""What is printed into a pipe is whole."""

import pytest
from rich.table import Table

from dragonfly_lit.io.console import standard_output

NAME = "a benchmark with a long name and a number, " * 3 + "and an end"


@pytest.mark.parametrize("columns", [None, "60"])
def test_a_piped_table_is_not_cut(monkeypatch, capsys, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:  # some shells hand their width on, and it is not that of a pipe
        monkeypatch.setenv("COLUMNS", columns)
    table = Table(NAME)
    table.add_row("1")
    standard_output().print(table)
    assert NAME in capsys.readouterr().out
