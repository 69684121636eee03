"""A table of one's own means the same to pack and to benchmark=my_set, and no patient is in two parts of it."""

import base64
import csv
import json
import random
import re
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.__main__ import main
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.evaluation import html
from dragonfly_lit.evaluation.benchmarks.manifest import manifest
from dragonfly_lit.processing.images import decode
from dragonfly_lit.spec.rows import Place, Row, RowError
from dragonfly_lit.spec.table import SHARES, SPLIT_WORDS, divide, match_columns, parts_of, with_meanings

NUM_PATIENTS, NUM_ROWS = 20, 60


def rows_of(num_rows=NUM_ROWS):
    random_of = random.Random(3)
    return [
        {
            "image": f"scans/{number}.png",
            "question": f"Is {number} even?",
            "answer": ("yes", "no")[number % 2],
            "patient": f"P{random_of.randrange(NUM_PATIENTS)}",
            "age": 40 + number,
        }
        for number in range(num_rows)
    ]


def write_images(folder, num_images=NUM_ROWS):
    (folder / "scans").mkdir(parents=True)
    for number in range(num_images):
        Image.new("L", (8, 8), number).save(folder / f"scans/{number}.png")


def write_table(path, rows):
    if path.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for line in [list(rows[0]), *(list(row.values()) for row in rows)]:
            book.active.append(line)
        book.save(path)
    elif path.suffix.lower() == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix.lower() == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def run(table, out, *more, source="mine"):
    given = ["--out", str(out), "--source", source, "--licence", "own", "--workers", "1", *more]
    return main(["pack", "--from", "table", str(table), *given])


def asked(table, **options):
    return list(manifest("my_set", table, "exact_match", **options).read(table))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "xlsx", "jsonl", "parquet"])
def test_pack_and_my_set_read_the_same_and_keep_the_same_rows_apart(tmp_path, suffix):
    write_images(tmp_path / "pictures")
    rows = [{key: value for key, value in row.items() if key != "age"} for row in rows_of()]
    table = tmp_path / f"table.{suffix}"
    write_table(table, rows)
    assert run(table, tmp_path / "out", "--images", str(tmp_path / "pictures")) == 0
    said = json.loads((tmp_path / "out/splits.json").read_text())
    assert said["split_by"] == "patient"
    assert sum(part["samples"] for part in said["parts"].values()) == NUM_ROWS
    owner = {row["question"]: row["patient"] for row in rows}
    patients = {}
    for part in ("train", "validation", "test"):
        records = list(open_dataset(tmp_path / "out" / part))
        questions = asked(table, images=tmp_path / "pictures", split=part)
        assert [(r.turns[0].text, r.turns[1].text) for r in records] == [(q.text, q.references[0]) for q in questions]
        for record, question in zip(records, questions, strict=True):
            assert decode(record.images[0]).tobytes() == decode(question.read_images()[0]).tobytes()
        patients[part] = {owner[question.text] for question in questions}
        assert len(patients[part]) == said["parts"][part]["groups"]
    assert sum(map(len, patients.values())) == len(set(owner.values()))
    assert len(asked(table, images=tmp_path / "pictures", split="all")) == NUM_ROWS
    with pytest.raises(ValueError, match=r"has a column patient, by which pack divides it. benchmark.split=test asks"):
        asked(table, images=tmp_path / "pictures")


def test_a_column_of_parts_is_followed_and_test_is_asked(tmp_path, capsys):
    write_images(tmp_path)
    words = ("Train", "val", "TEST")
    rows = [{**row, "split": words[int(row["patient"][1:]) % 3]} for row in rows_of()]
    table = tmp_path / "table.csv"
    write_table(table, rows)
    assert run(table, tmp_path / "out") == 0
    assert len(open_dataset(tmp_path / "out/test")) == sum(row["split"] == "TEST" for row in rows)
    assert [q.text for q in asked(table)] == [row["question"] for row in rows if row["split"] == "TEST"]
    rows[7]["split"] = next(word for word in words if word != rows[7]["split"])
    rows[8]["patient"], rows[8]["split"] = rows[7]["patient"], next(w for w in words if w != rows[7]["split"])
    write_table(table, rows)
    assert run(table, tmp_path / "other") == 1
    assert "Put all rows of a patient into one part, or divide by patient" in capsys.readouterr().err
    assert run(table, tmp_path / "other", "--split-by", "patient") == 0
    rows[7]["split"] = "tarin"
    write_table(table, [rows[7], *rows[20:30]])
    assert run(table, tmp_path / "third", "--split-by", "split") == 1
    assert "split: found 'tarin', wanted one of train" in capsys.readouterr().err


def test_columns_are_matched_or_given_and_errors_name_the_users_own(tmp_path, capsys):
    write_images(tmp_path)
    rows = [
        {"File Name": row["image"], "Frage": row["question"], "Answer": row["answer"], "PatientID": row["patient"]}
        for row in rows_of(12)
    ]
    table = tmp_path / "table.csv"
    write_table(table, rows)
    assert run(table, tmp_path / "out") == 1
    assert (
        "question: is missing: looked for question; the columns are File Name, Frage, Answer, PatientID."
        in capsys.readouterr().err
    )
    assert run(table, tmp_path / "out", "--columns", "question=Frage") == 0
    assert re.search(r"^Frage +10 +0 +0$", capsys.readouterr().out, re.MULTILINE)
    assert len(asked(table, columns={"question": "Frage"}, split="all")) == 12
    rows[3]["Frage"] = ""
    write_table(table, rows)
    assert run(table, tmp_path / "other", "--columns", "question=Frage", "--split-by", "none") == 1
    assert "table.csv line 5, row 4: Frage: found an empty text" in capsys.readouterr().err
    with pytest.raises(RowError, match="Frage"):
        asked(table, columns={"question": "Frage"}, split="all")
    assert run(table, tmp_path / "other", "--columns", "question=Fräge") == 1
    assert "question=Fräge: there is no column 'Fräge'; the columns are File Name" in capsys.readouterr().err


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("column", ["File Name", "Second"])
def test_images_of_a_table_are_where_the_user_says(tmp_path, column, share):
    write_images(tmp_path, 4)
    rows = [
        {"File Name": f"scans/{n}.png", "Second": f"scans/{3 - n % 2}.png", "question": f"{n}?", "answer": "a"}
        for n in range(4)
    ]
    write_table(tmp_path / "t.csv", rows)
    more = ["--share-image"] if share else []
    assert run(tmp_path / "t.csv", tmp_path / "out", "--image-column", column, *more) == 0
    shown = [image for record in open_dataset(tmp_path / "out") for image in record.images]
    wanted = list(dict.fromkeys(row[column] for row in rows)) if share else [row[column] for row in rows]
    assert shown == [(tmp_path / name).read_bytes() for name in wanted]


def test_an_image_column_that_is_not_there_is_named(tmp_path, capsys):
    write_images(tmp_path, 3)
    write_table(tmp_path / "t.csv", rows_of(3))
    assert run(tmp_path / "t.csv", tmp_path / "out", "--image-column", "Bild", "--split-by", "none") == 1
    assert "row 1: Bild: is missing: looked for Bild; the columns are image, question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["question=a", "question=b"], "question=a and question=b: the name question is given twice"),
        (["question=a", "answer=a"], "question=a and answer=a: the column a is given twice"),
    ],
)
def test_a_column_is_called_one_thing(tmp_path, given, told, capsys):
    write_images(tmp_path, 3)
    write_table(tmp_path / "t.csv", rows_of(3))
    assert run(tmp_path / "t.csv", tmp_path / "out", "--columns", *given) == 1
    assert f"--columns {told}. Give it once." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--max-side", "0"], "--max-side: '0' is not a whole number, 1 or more"),
        (["--max-side", "-3"], "--max-side: '-3' is not a whole number, 1 or more"),
        (["--shard-size", "0"], "--shard-size: '0' is not a whole number, 1 or more"),
        (["--images-first", "--images-in-place"], "--images-in-place: not allowed with argument --images-first"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(tmp_path, given, told, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "t.csv", tmp_path / "out", *given)
    assert told in capsys.readouterr().err


def test_the_category_of_a_question_is_kept(tmp_path):
    write_images(tmp_path, 3)
    rows = [{**row, "Question Type": kind} for row, kind in zip(rows_of(3), ("organ", "", "plane"), strict=True)]
    write_table(tmp_path / "t.csv", rows)
    assert run(tmp_path / "t.csv", tmp_path / "out", "--split-by", "none") == 0
    kept = [record.meta.get("categories") for record in open_dataset(tmp_path / "out")]
    assert kept == [["organ"], None, ["plane"]]


def test_two_columns_that_may_be_one_thing_are_named():
    with pytest.raises(
        ValueError, match=r"columns patient_id and subject may both be the patient. Say which: patient="
    ):
        match_columns(("image", "patient_id", "subject"))
    assert match_columns(("patient", "subject"))["patient"] == "patient"


def test_a_table_of_a_german_excel_is_read_with_its_semicolons(tmp_path):
    write_images(tmp_path)
    rows = [{**row, "question": f"Größe, {row['question']}"} for row in rows_of(12)]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=";")
        table.writeheader()
        table.writerows(rows)
    assert run(tmp_path / "t.csv", tmp_path / "out", "--split-by", "none") == 0
    assert [record.turns[0].text for record in open_dataset(tmp_path / "out")] == [row["question"] for row in rows]
    (tmp_path / "t.csv").write_text("image;question;answer\n0.png;is it; or not;yes\n")
    with pytest.raises(ValueError, match=r"has 4 fields where the header has 3\. A text with a semicolon in it needs"):
        asked(tmp_path / "t.csv", split="all")


def test_a_column_that_is_not_there_is_told_with_the_way_to_name_it(tmp_path, capsys):
    write_images(tmp_path, 3)
    write_table(tmp_path / "t.csv", [{"image": "scans/0.png", "Frage": "Is it?", "answer": "yes"}])
    assert run(tmp_path / "t.csv", tmp_path / "out") == 1
    told = (
        "question: is missing: looked for question; the columns are image, Frage, answer. Name the column that it is, "
    )
    assert f"{told}such as question=Frage, with --columns of pack" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"Name the column .* or benchmark\.columns"):
        asked(tmp_path / "t.csv", split="all")


def test_a_folder_of_images_that_is_not_there_is_told_before_any_row(tmp_path, capsys):
    write_table(tmp_path / "t.csv", rows_of(3))
    assert run(tmp_path / "t.csv", tmp_path / "out", "--images", str(tmp_path / "bildr")) == 1
    assert f"--images {tmp_path / 'bildr'}: there is no such folder." in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_row_whose_image_is_broken_names_row_and_file(tmp_path, content, capsys):
    write_images(tmp_path)
    (tmp_path / "scans/5.png").write_bytes(content)
    write_table(tmp_path / "table.csv", rows_of(12))
    assert run(tmp_path / "table.csv", tmp_path / "out", "--split-by", "none") == 1
    told = capsys.readouterr().err
    assert "table.csv line 7, row 6: image scans/5.png" in told
    assert "or DICOM: it is none of them, or damaged." in told
    (tmp_path / "scans/5.png").unlink()
    assert run(tmp_path / "table.csv", tmp_path / "out", "--split-by", "none") == 1
    assert "row 6: image scans/5.png is missing" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"line 7, row 6: image: there is no image .*scans/5\.png"):
        asked(tmp_path / "table.csv", split="all")


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text(min_size=1, max_size=5), min_size=3, max_size=60), st.randoms())
def test_a_division_depends_on_the_patients_and_on_nothing_else(groups, random_of):
    found = parts_of(groups, (80, 10, 10), "patient")
    shuffled = list(groups)
    random_of.shuffle(shuffled)
    assert parts_of(shuffled * 2, (80, 10, 10), "patient") == found
    numbers = [list(found.values()).count(part) for part in ("train", "validation", "test")]
    assert all(numbers)
    assert numbers[1] == numbers[2] == max(1, round(len(groups) / 10))


def test_too_few_patients_and_rows_without_one_are_told(tmp_path, capsys):
    write_images(tmp_path)
    rows = rows_of(12)
    for number, row in enumerate(rows):
        row["patient"] = f"P{number % 2}"
    write_table(tmp_path / "table.csv", rows)
    assert run(tmp_path / "table.csv", tmp_path / "out") == 1
    assert (
        "patient has 2 values, too few for 3 parts. Take fewer parts (--split-shares 80 0 20" in capsys.readouterr().err
    )
    assert run(tmp_path / "table.csv", tmp_path / "out", "--split-shares", "50", "50", "0") == 0
    rows[4]["patient"] = ""
    write_table(tmp_path / "table.csv", rows)
    assert run(tmp_path / "table.csv", tmp_path / "two", "--split-shares", "50", "50", "0") == 1
    assert "row 5: patient: is empty, so the row may belong to somebody" in capsys.readouterr().err
    more = ("--split-shares", "50", "50", "0", "--on-error", "skip")
    assert run(tmp_path / "table.csv", tmp_path / "two", *more) == 0
    assert "patient: is empty" in (tmp_path / "two/train/skipped.jsonl").read_text()


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (("test", "val", "test"), "by split all rows are to validation and test, so none is to train on"),
        (("north", "south", "west"), "by split no row is to train, validation, test, so none is to train on"),
    ],
)
def test_rows_of_which_none_is_to_train_on_are_told_with_the_way_out(tmp_path, parts, told, capsys):
    write_images(tmp_path, 3)
    write_table(tmp_path / "t.csv", [{**row, "split": part} for row, part in zip(rows_of(3), parts, strict=True)])
    assert run(tmp_path / "t.csv", tmp_path / "out", "--split-by", "split") == 1
    assert f"{told}. Name another column with --split-by, or `--split-by none`" in capsys.readouterr().err


def test_another_format_is_divided_by_any_column(tmp_path):
    write_images(tmp_path)
    rows = [{"image": row["image"], "caption": row["question"], "study": row["patient"]} for row in rows_of()]
    write_table(tmp_path / "captions.csv", rows)
    given = ["--out", str(tmp_path / "out"), "--source", "m", "--licence", "l", "--workers", "1"]
    given += ["--images", str(tmp_path), "--split-by", "study"]
    assert main(["pack", "--from", "captions", str(tmp_path / "captions.csv"), *given]) == 0
    sizes = [len(open_dataset(tmp_path / "out" / part)) for part in ("train", "validation", "test")]
    assert sum(sizes) == NUM_ROWS
    assert all(sizes)


def test_nothing_is_divided_by_a_column_that_is_not_there():
    with pytest.raises(ValueError, match="nothing is divided by ward: no row has it"):
        divide([Row(values={"patient": "P"}, place=Place("t.csv", 0))], "ward")


PART_WORDS = st.builds(
    lambda word, write: write(word), st.sampled_from(sorted(SPLIT_WORDS)), st.sampled_from((str, str.title, str.upper))
)


def table_of(column, words, columns=None, **more):
    rows = [
        Row(values={column: word, **{k: v[n] for k, v in more.items()}}, place=Place("t.csv", n))
        for n, word in enumerate(words)
    ]
    return [with_meanings(row, columns or {}) for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(PART_WORDS, min_size=1, max_size=30),
    column=st.sampled_from(("split", "data_split", "partition", "Data Split", "Teil", "fold", "patient")),
    mapped=st.booleans(),
    as_read=st.booleans(),
)
def test_a_column_of_parts_puts_every_row_where_it_says(words, column, mapped, as_read):
    columns = {"split": column} if mapped else {}
    rows = (
        table_of(column, words, columns) if as_read else [Row(values={column: w}, place=Place("t", 0)) for w in words]
    )
    found = divide(rows, column)
    assert (found.by, found.says) == (column, True)
    assert [found.part_of(row) for row in rows] == [SPLIT_WORDS[word.lower()] for word in words]


def test_a_misspelt_part_is_an_error_of_its_row_and_other_words_are_people():
    rows = table_of("Part", ["train", "tset", "test"], {"split": "Part"})
    found = divide(rows, "Part")
    assert [found.part_of(row) for row in (rows[0], rows[2])] == ["train", "test"]
    with pytest.raises(RowError, match=r"t.csv row 1: Part: found 'tset', wanted one of train"):
        found.part_of(rows[1])
    rows = table_of("fold", ["train", "test", "late"])  # of no known name, but it says what is trained on
    with pytest.raises(RowError, match="fold: found 'late', wanted one of train"):
        divide(rows, "fold").part_of(rows[2])
    for column in ("ward", "patient"):  # neither names what is trained on: the values are dealt out by their hashes
        words = ["Test", "Ann", "Bob", *(["Train"] if column == "patient" else [])]
        found = divide(table_of(column, words), column)
        assert not found.says
        assert found.parts == parts_of(words, SHARES, column)


def test_a_patient_in_two_parts_is_an_error_of_any_column_that_says_them():
    for column in ("data_split", "fold"):
        with pytest.raises(ValueError, match=r"t.csv row 2: patient 'A' is in test here and in train in t.csv row 0"):
            divide(table_of(column, ["train", "val", "test"], patient=["A", "B", "A"]), column)
    divide(table_of("asked_by", ["test", "me", "dev"], patient=["A", "B", "A"]), "asked_by")


# Questions that share an image


def picture(shade: int) -> bytes:
    out = BytesIO()
    Image.fromarray(np.full((64, 64, 3), shade, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("form", ["parquet", "table", "path_vqa"])
def test_questions_about_images_with_the_same_bytes_share_them(tmp_path, form, capsys):
    rows = [
        {"image": {"bytes": picture(number % 5), "path": f"{number}.png"}, "question": f"{number}?", "answer": "a"}
        for number in range(35)
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    given = ["--source", "m", "--licence", "l", "--workers", "1", "--share-image"]
    assert main(["pack", "--from", form, str(tmp_path / "t.parquet"), "--out", str(tmp_path / "o"), *given]) == 0
    records = list(open_dataset(tmp_path / "o"))
    assert len(records) == 5
    for place, record in enumerate(records):
        assert record.share_image
        assert record.images == (picture(place),)
        assert [t.text for t in record.turns if t.role == "user"] == [f"{n}?" for n in range(place, 35, 5)]
    assert "image[].bytes" not in capsys.readouterr().out


def test_files_with_the_same_bytes_share_too(tmp_path):
    write_images(tmp_path, 4)
    (tmp_path / "scans/3.png").write_bytes((tmp_path / "scans/0.png").read_bytes())
    write_table(tmp_path / "t.csv", rows_of(4))
    assert run(tmp_path / "t.csv", tmp_path / "out", "--split-by", "none", "--share-image") == 0
    assert [len(record.turns) for record in open_dataset(tmp_path / "out")] == [4, 2, 2]


def test_a_format_without_questions_does_not_share(tmp_path, capsys):
    write_images(tmp_path, 1)
    write_table(tmp_path / "t.csv", [{"image": "scans/0.png", "caption": "x"}])
    given = ["--out", str(tmp_path / "o"), "--source", "m", "--licence", "l", "--share-image"]
    assert main(["pack", "--from", "captions", str(tmp_path / "t.csv"), "--images", str(tmp_path), *given]) == 1
    assert "--share-image: rows of captions are not questions about an image" in capsys.readouterr().err


# Frames of DICOM


def dicom():
    """Three frames of 12 bits."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID, made.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    made.PatientName, made.PhotometricInterpretation, made.SamplesPerPixel = "Mustermann^Erika", "MONOCHROME2", 1
    made.Rows, made.Columns, made.NumberOfFrames, made.PixelRepresentation = 8, 8, 3, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelData = (np.arange(192, dtype=np.uint16) * 20).tobytes()
    made["PixelData"].VR = "OW"
    return made


def test_dicom_goes_into_shards_without_its_header(tmp_path, capsys):
    made = dicom()
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    table = tmp_path / "t.csv"
    write_table(table, [{"image": "a.dcm", "question": "What?", "answer": "This."}])
    assert run(table, tmp_path / "o") == 1
    assert "t.csv line 2, row 1: image a.dcm: has 3 frames. Choose: all, middle or a number" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has 3 frames"):
        asked(table)
    for frames, num in (("all", 3), ("middle", 1), (2, 1)):
        assert run(table, tmp_path / f"o{frames}", "--frames", str(frames)) == 0
        (record,), (question,) = open_dataset(tmp_path / f"o{frames}"), asked(table, frames=frames)
        assert len(record.images) == record.turns[0].num_images == num
        for ours, theirs in zip(record.images, question.read_images(), strict=True):
            assert decode(ours).tobytes() == decode(theirs).tobytes()
    assert b"Mustermann" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*.tar"))
    made.BurnedInAnnotation = "YES"
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True, overwrite=True)
    assert run(table, tmp_path / "b", "--frames", "0") == 1
    assert "image a.dcm: says that words are burned into its pixels" in capsys.readouterr().err
    assert run(table, tmp_path / "b", "--frames", "0", "--burned-in", "--window", "0", "4095") == 0
    (record,) = open_dataset(tmp_path / "b")
    (question,) = asked(table, frames=0, window=(0, 4095))
    assert decode(record.images[0]).tobytes() == decode(question.read_images()[0]).tobytes()


def as_cell(data: bytes, name: str):
    """The image as a table of this name can hold it."""
    if name in ("t.jsonl", "t.csv"):
        return "data:application/dicom;base64," + base64.b64encode(data).decode()
    return {"bytes": data, "path": None} if name == "t.parquet" else data


@pytest.mark.parametrize("name", ["t.parquet", "t.PARQUET", "t.arrow", "t.jsonl", "t.csv"])
def test_frames_and_a_window_count_wherever_the_image_lies(tmp_path, name):
    made, out = dicom(), BytesIO()
    made.save_as(out, enforce_file_format=True)
    (tmp_path / "a.dcm").write_bytes(out.getvalue())
    write_table(tmp_path / "file.csv", [{"image": "a.dcm", "question": "What?", "answer": "This."}])
    write_table(tmp_path / name, [{"image": as_cell(out.getvalue(), name), "question": "What?", "answer": "This."}])
    with pytest.raises(ValueError, match=rf"{name} .*row 1: image: has 3 frames"):
        asked(tmp_path / name)
    for options in ({"frames": "all"}, {"frames": 1, "window": (0, 4095)}, {"frames": "middle", "window": (5, 900)}):
        (stored,), (filed,) = asked(tmp_path / name, **options), asked(tmp_path / "file.csv", **options)
        assert stored.read_images() == filed.read_images(), options
        assert len(set(stored.image_keys)) == len(stored.images) == (3 if options["frames"] == "all" else 1)
        assert html._place(stored) == [f"IMAGE_{n}" for n in range(1, len(stored.images) + 1)], "no command has frames"


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t.tsv", "t.TSV", "t.jsonl", "t.JSONL", "t.Parquet", "t.arrow"])
def test_a_table_is_known_by_its_suffix_in_any_case(tmp_path, name):
    write_images(tmp_path, 6)
    rows = [{key: value for key, value in row.items() if key != "age"} for row in rows_of(6)]
    write_table(tmp_path / name, rows)
    questions = asked(tmp_path / name, split="all")
    assert [question.text for question in questions] == [row["question"] for row in rows]
    assert run(tmp_path / name, tmp_path / "out", "--split-by", "none", "--images", str(tmp_path)) == 0
    assert [r.turns[0].text for r in open_dataset(tmp_path / "out")] == [row["question"] for row in rows]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t.txt", ".txt is not a format with rows"),
        ("t", "no suffix is not a format"),
        ("t.pkl", "a pickle can run code"),
        ("T.PKL", "a pickle can run code"),
    ],
)
def test_a_file_of_no_table_is_refused_by_its_suffix(tmp_path, name, said):
    (tmp_path / name).write_text('{"question": "q", "answer": "x"}\n')
    with pytest.raises(ValueError, match=said):
        asked(tmp_path / name)


def test_only_rows_of_the_chosen_part_are_asked_and_it_is_said_which(tmp_path, caplog):
    write_images(tmp_path, 9)
    table = tmp_path / "t.csv"
    rows = [row | {"split": ("train", "val")[number % 2]} for number, row in enumerate(rows_of(9))]
    write_table(table, rows)
    assert len(asked(table, split="train")) == 5
    assert len(asked(table, split="all")) == 9
    for options in ({}, {"split": "test"}):
        with pytest.raises(ValueError, match=r"split=test: .* no row there, by its column split. Choose train or val"):
            asked(table, **options)
    assert not caplog.records
    write_table(table, [*rows[:-1], rows[-1] | {"split": "test"}])
    assert len(asked(table)) == 1
    assert "only those in test are asked; benchmark.split=all asks every row" in caplog.text
    with pytest.raises(ValueError, match=r"benchmark.split=test: .* column patient. Choose train or validation, or"):
        asked(table, split="test", split_by="patient", split_shares=(60, 40, 0))
    for more in ({"split_by": "patient"}, {"split_shares": (60, 20, 20)}):
        with pytest.raises(ValueError, match=rf"benchmark.split=all asks every row, so benchmark.{next(iter(more))}"):
            asked(table, split="all", **more)
