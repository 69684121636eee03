"""Tables as people save them are read, or refused in a line that says what to do."""

import datetime
import logging

import pytest

from dragonfly_lit.spec.rows import RowError
from dragonfly_lit.spec.table import table_rows

ROW = {"image": "a.png", "question": "Is it red?", "answer": "yes"}


def rows_of(path, data=None):
    if data is not None:
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(table_rows(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sep.csv", "sep=;\nimage;question;answer\na.png;Is it red?;yes\n"),
        ("quoted.csv", 'image;question;answer;"note, if any"\na.png;Is it red?;yes;\n'),
        ("blank.csv", ",,\n\nimage,question,answer\n,,\na.png,Is it red?,yes\n,,\n"),
        ("blank.tsv", "\t\t\nimage\tquestion\tanswer\na.png\tIs it red?\tyes\n\t\t\n"),
        ("ends.csv", b"\xef\xbb\xbfimage;question;answer\r\na.png;Is it red?;yes\r\n"),
    ],
)
def test_what_programs_write_around_a_table_is_passed_over(tmp_path, name, text):
    (row,) = rows_of(tmp_path / name, text)
    assert not isinstance(row, RowError), row
    assert {key: row.values[key] for key in ROW} == ROW


def test_lines_are_counted_with_those_that_are_passed_over(tmp_path):
    wrong, _ = rows_of(tmp_path / "t.csv", "sep=;\n\nimage;question\na.png\nb.png;q\n")
    assert str(wrong).startswith("t.csv line 4, row 1: has 1 field where the header has 2.")


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("t.csv", "image\tquestion", "which tabs seem to divide. Save it as .tsv."),
        ("t.csv", "image|question", "which bars seem to divide. Divide it by commas."),
        ("t.tsv", "image,question", "which commas seem to divide. Save it as .csv."),
    ],
)
def test_a_header_that_is_divided_otherwise_is_told(tmp_path, name, header, message):
    with pytest.raises(ValueError, match="its first line is one name") as told:
        rows_of(tmp_path / name, f"{header}\na.png,q\n")
    assert str(told.value).endswith(message)


def test_choices_may_stand_under_small_letters(tmp_path):
    (row,) = rows_of(tmp_path / "t.csv", "question,answer,a,b\nWhich?,B,red,blue\n")
    assert row.choices("choices", "options") == ("red", "blue")


@pytest.mark.parametrize("cells", ["red,,green", ",blue,green"])
def test_a_gap_in_the_choices_is_an_error_of_its_row(tmp_path, cells):
    (row,) = rows_of(tmp_path / "t.csv", f"question,answer,A,B,C\nWhich?,C,{cells}\n")
    with pytest.raises(RowError, match=r"is empty, and \w is a choice. Fill the choices from A on"):
        row.choices("choices", "options")


def book(path, *sheets):
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, state, lines in sheets:
        sheet = made.create_sheet(title)
        sheet.sheet_state = state
        for line in lines:
            sheet.append(line)
    made.save(path)
    return path


TABLE = [list(ROW), list(ROW.values())]


def test_the_first_visible_sheet_that_holds_something_is_read(tmp_path):
    sheets = [("Old", "hidden", [["note"], ["x"]]), ("Empty", "visible", []), ("Data", "visible", [[], [], *TABLE])]
    (row,) = rows_of(book(tmp_path / "t.xlsx", *sheets))
    assert row.values == ROW


def test_the_sheets_that_are_not_read_are_told_once(tmp_path, caplog):
    path = book(tmp_path / "t.xlsx", ("Data", "visible", TABLE), ("More", "visible", TABLE))
    with caplog.at_level(logging.WARNING):
        assert len(rows_of(path)) == len(rows_of(path)) == 1
    assert [each.getMessage() for each in caplog.records] == [
        f"{path}: sheet Data is read, More not. Save a sheet by itself to read it."
    ]


def test_a_day_of_excel_has_no_time(tmp_path):
    lines = [["question", "answer"], ["When?", datetime.date(2024, 3, 1)], ["When?", datetime.datetime(2024, 3, 1, 9)]]
    day, hour = rows_of(book(tmp_path / "t.xlsx", ("Data", "visible", lines)))
    assert (day.values["answer"], hour.values["answer"]) == ("2024-03-01", "2024-03-01T09:00:00")
