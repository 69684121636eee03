"""A log that is being written, or whose writer was killed, gives the rows that are whole, and no error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.io.metrics import read_metrics

HEAD = b"loss,lr,val_loss,step\n"
LINES = [HEAD, b"0.5,1e-3,,10\n", b",,0.25,10\n", b"nan,1e-04,,20\n", b"0.125,2e-10,,130\n"]
ROWS = [
    {"loss": 0.5, "lr": 1e-3, "step": 10},
    {"val_loss": 0.25, "step": 10},
    None,
    {"loss": 0.125, "lr": 2e-10, "step": 130},
]


@pytest.mark.parametrize("end", range(len(b"".join(LINES)) + 1))
def test_a_log_cut_anywhere_gives_the_rows_before_the_cut(tmp_path, end):
    (tmp_path / "metrics.csv").write_bytes(b"".join(LINES)[:end])
    whole = sum(end >= len(b"".join(LINES[: number + 1])) for number in range(len(LINES)))
    rows = read_metrics(tmp_path / "metrics.csv")
    assert len(rows) == max(whole - 1, 0)
    assert [row for row in rows if row["step"] != 20] == [row for row in ROWS[: len(rows)] if row]


@given(st.one_of(st.binary(max_size=60), st.just(b"0" * 200_000), st.just(b'"')), st.integers(0, len(LINES)))
def test_nonsense_in_the_middle_loses_that_and_no_more(tmp_path_factory, nonsense, place):
    path = tmp_path_factory.mktemp("log") / "metrics.csv"
    nonsense = nonsense.replace(b"\n", b"")
    path.write_bytes(b"".join([*LINES[:place], nonsense + b"\n", *LINES[place:]]))
    rows = read_metrics(path)
    if place:
        assert [row for row in rows if row.get("lr") == 2e-10] == ROWS[-1:]
    assert all("step" in row for row in rows)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "metrics.csv")
