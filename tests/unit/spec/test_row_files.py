"""A sheet of Excel is read as the CSV of the same cells, or ends in one line that names the file."""

import random
from io import BytesIO
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

pytest.importorskip("openpyxl")
import openpyxl

from dragonfly_lit.spec.row_files import read_rows

SHEET, BOOK = "xl/worksheets/sheet1.xml", "xl/workbook.xml"


def excel(lines) -> bytes:
    book, out = openpyxl.Workbook(), BytesIO()
    for line in lines:
        book.active.append(line)
    book.save(out)
    return out.getvalue()


def changed(data: bytes, name: str, change) -> bytes:
    out = BytesIO()
    with ZipFile(BytesIO(data)) as old, ZipFile(out, "w", ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, change(old.read(member)) if member == name else old.read(member))
    return out.getvalue()


WHOLE = excel([["image", "question"], *([f"{n}.png", f"Is {n} <odd>?"] for n in range(40))])


def read(tmp_path, data: bytes):
    (tmp_path / "t.xlsx").write_bytes(data)
    return [row.values for row in read_rows(tmp_path / "t.xlsx")]


@pytest.mark.parametrize("name", [SHEET, BOOK, "xl/styles.xml", "[Content_Types].xml"])
def test_a_damaged_sheet_is_one_line_that_names_the_file(tmp_path, name):
    random_of, refused = random.Random(0), 0

    def damage(member: bytes) -> bytes:
        made = bytearray(member[: random_of.randrange(1, len(member))] if random_of.random() < 0.5 else member)
        for _ in range(random_of.randrange(1, 4)):
            made[random_of.randrange(len(made))] = random_of.randrange(256)
        return bytes(made)

    for _ in range(40):
        try:
            read(tmp_path, changed(WHOLE, name, damage))
        except ValueError as error:
            refused += 1
            if "\n" in str(error) or not str(error).startswith(f"{tmp_path / 't.xlsx'}: "):
                pytest.fail(str(error))
    assert refused > 10


def test_a_sheet_that_ends_early_is_refused_after_its_rows(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(changed(WHOLE, SHEET, lambda xml: xml[: len(xml) // 2]))
    rows = read_rows(tmp_path / "t.xlsx")
    assert next(rows).values == {"image": "0.png", "question": "Is 0 <odd>?"}
    with pytest.raises(ValueError, match=r"t\.xlsx: cannot be read as a table of Excel: (no|un)"):
        list(rows)
    for length in range(0, len(WHOLE), 97):
        with pytest.raises(ValueError, match=r"t\.xlsx: cannot be read as a table of Excel"):
            read(tmp_path, WHOLE[:length])


@pytest.mark.parametrize("names", [("image", "", "answer"), ("", "image", "answer"), ("", "", "c"), ("None", "a", "b")])
def test_a_column_without_a_name_is_as_in_a_csv(tmp_path, names):
    cells = ["a.png", "x", "yes"]
    (tmp_path / "t.csv").write_text(f"{','.join(names)}\n{','.join(cells)}\n")
    (csv,) = read_rows(tmp_path / "t.csv")
    assert read(tmp_path, excel([[name or None for name in names], cells])) == [csv.values]


def test_a_cell_behind_the_last_name_is_an_error_of_its_row(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(excel([["image", None, None], ["a.png", "x", "yes"], ["b.png"]]))
    wrong, right = read_rows(tmp_path / "t.xlsx")
    assert "has 3 cells where line 1, of the columns' names, has 1" in str(wrong)
    assert right.values == {"image": "b.png"}


def test_rows_outside_of_the_size_that_a_sheet_says_are_read(tmp_path):
    small = changed(WHOLE, SHEET, lambda xml: xml.replace(b'ref="A1:B41"', b'ref="A1:A2"'))
    assert small != WHOLE
    assert read(tmp_path, small) == read(tmp_path, WHOLE)
