"""What is printed into a pipe is whole, and what takes long is told."""

import sys
import time

import pytest
from limits import patient
from rich.table import Table

from dragonfly_lit.io.console import RANKS, standard_output, told_if_slow

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


@pytest.mark.parametrize("name", RANKS)
def test_what_takes_long_is_told_once_by_the_first_rank_and_what_is_quick_is_not(monkeypatch, name):
    told = []
    monkeypatch.setattr(sys.stderr, "write", told.append)
    for variable in RANKS:
        monkeypatch.delenv(variable, raising=False)
    with told_if_slow("quick", after=patient(600)):
        pass
    monkeypatch.setenv(name, "1")
    with told_if_slow("another rank's", after=0):
        pass
    monkeypatch.setenv(name, "0")
    end = time.monotonic() + patient(60)
    with told_if_slow("slow", after=0):
        while "\n" not in told and time.monotonic() < end:
            time.sleep(0.01)
    assert "".join(told) == "slow\n"
