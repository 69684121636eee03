"""Files that people reported: each is packed to exactly what it means, or refused by file and row."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.job import Job
from data_prep.packing import pack
from data_prep.sources.conversations import Options
from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.spec.shard import NAMED_IMAGE_EXTENSIONS

CASES = Path(__file__).resolve().parents[2] / "cases"
OPTIONS = "\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."


def picture(colour: str) -> bytes:
    out = BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, "PNG")
    return out.getvalue()


A, B = picture("red"), picture("blue")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name, data in (("a.jpg", A), ("b.jpg", B), ("c.jpg", B)):
        (tmp_path / "images" / name).write_bytes(data)
    return tmp_path


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, newline="")
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def records(folder, form, path, on_error="raise", **options):
    job = Job(
        form=form,
        path=path,
        images=folder / "images",
        out=folder / "out",
        source="s",
        licence="L",
        on_error=on_error,
        options=Options(**options),
    )
    pack(job, workers=1)
    shards = open_dataset(folder / "out")
    return [shards[i] for i in range(len(shards))]


def said(record):
    return [(turn.text, turn.num_images) for turn in record.turns]


def refused(folder, form, path, **options):
    """Why the only row of a file is refused; under `skip` it is the same."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    with pytest.raises(ValueError, match=rf"^{path.name} (line \d+, )?row \d+: ") as error:
        records(folder, form, path, **options)
    reason = str(error.value)
    assert reason.isprintable()
    shutil.rmtree(folder / "out")
    with pytest.raises(ValueError, match=r"no row could be packed: all \d were refused, the first of them for this: "):
        records(folder, form, path, on_error="skip", **options)
    return reason


@pytest.mark.parametrize(
    ("name", "form", "options", "turns"),
    [
        ("05_image_1_column.parquet", "parquet", {"image_columns": ("image_1",)}, [("<image 1> Colour?", 1), ("A", 0)]),
        ("06_image_null_images_set.jsonl", "llava", {}, [("What?", 1), ("Red.", 0)]),
        (
            "07_choices_answer_index.parquet",
            "parquet",
            {},
            [
                ("Colour?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly.", 1),
                ("A", 0),
            ],
        ),
        ("09_caption_list.jsonl", "captions", {}, [("Describe the image.", 1), ("x", 0)]),
    ],
)
def test_a_reported_file_is_packed_to_what_it_means(folder, name, form, options, turns):
    (record,) = records(folder, form, CASES / name, **options)
    assert said(record) == turns


@pytest.mark.parametrize(
    ("name", "form", "reason"),
    [
        ("05_image_1_column.parquet", "parquet", "image_1: looks like an image"),
        ("09_answer_dict.parquet", "parquet", "answers: found {"),
        ("10_lone_surrogate_pack.jsonl", "llava", "conversations[1].value: holds half a character"),
        ("12_caption_image_int.jsonl", "captions", "image: found 5"),
        ("12_image_list_of_int.jsonl", "llava", "image[0]: found 33471"),
    ],
)
def test_a_reported_file_is_refused_by_name(folder, name, form, reason):
    assert reason in refused(folder, form, CASES / name)


def test_an_open_quote_costs_its_own_row_only(folder):
    with pytest.raises(ValueError, match=r"08_open_quote.csv line 2, row 1: is not CSV"):
        records(folder, "captions", CASES / "08_open_quote.csv")
    shutil.rmtree(folder / "out")
    found = records(folder, "captions", CASES / "08_open_quote.csv", on_error="skip")
    assert [record.turns[1].text for record in found] == ["two", "three"]


def test_an_unquoted_comma_is_refused_and_the_other_row_is_whole(folder):
    path = CASES / "08_unquoted_comma.csv"
    with pytest.raises(ValueError, match=r"line 2, row 1: has 3 fields where the header has 2"):
        records(folder, "captions", path)
    shutil.rmtree(folder / "out")
    (record,) = records(folder, "captions", path, on_error="skip")
    assert record.turns[1].text == "A blue box, quoted"


@pytest.mark.parametrize("suffix", NAMED_IMAGE_EXTENSIONS)
def test_a_row_is_known_by_the_name_of_its_image_whatever_kind_it_is(folder, suffix):
    path = write(folder / "c.csv", f'image,caption\nb.jpg,"open\na.{suffix},two"\n')
    with pytest.raises(ValueError, match=rf"another row: 'a.{suffix},two"):
        records(folder, "captions", path)
    path = write(folder / "d.jsonl", json.dumps({"question": "?", "answer": "a", "seen": f"a.{suffix}"}))
    with pytest.raises(ValueError, match="seen: looks like an image"):
        records(folder, "parquet", path)


def test_a_quote_that_swallows_a_row_and_closes_is_refused(folder):
    path = write(folder / "c.csv", 'image,caption\nb.jpg,"open\na.jpg,two"\nc.jpg,"two\nlines, here"\n')
    with pytest.raises(ValueError, match=r"c.csv line 2, row 1: opens a quote .* another row: 'a.jpg,two\"'"):
        records(folder, "captions", path)
    shutil.rmtree(folder / "out")
    found = records(folder, "captions", path, on_error="skip")
    assert [record.turns[1].text for record in found] == ['two"', "two\nlines, here"]


def test_quotes_of_a_tsv_are_letters(folder):
    path = write(folder / "c.tsv", 'image\tcaption\na.jpg\t"Stop" says the sign\nb.jpg\t"Stop"\n')
    assert [record.turns[1].text for record in records(folder, "captions", path)] == ['"Stop" says the sign', '"Stop"']
    path = write(folder / "d.tsv", 'image\tcaption\na.jpg\t"He says ""stop"""\n')
    assert "A TSV has no quoting" in refused(folder, "captions", path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("form", ["captions", "llava"])
def test_encodings_of_unicode_are_read(folder, encoding, form):
    if form == "captions":
        path = write(folder / "c.csv", "image,caption\na.jpg,Café\n".encode(encoding))
    else:
        row = {"image": "a.jpg", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Café"}]}
        path = write(folder / "c.json", json.dumps([row], ensure_ascii=False).encode(encoding))
    (record,) = records(folder, form, path)
    assert record.turns[1].text == "Café"


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl"])
def test_another_encoding_is_named_with_the_row_that_holds_it(folder, name):
    text = "image,caption\na.jpg,Café\n" if name == "c.csv" else '{"image": "a.jpg", "caption": "Café"}\n'
    path = write(folder / name, text.encode("latin-1"))
    assert "the byte 0xE9, which is not UTF-8, at place 3" in refused(folder, "captions", path)


def chat(question, answer="Red.", **cells):
    return [{"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **cells}]


@pytest.mark.parametrize("empty", [None, [], "", {"bytes": None, "path": None}])
@pytest.mark.parametrize("form", ["llava", "messages", "parquet", "dragonfly"])
def test_an_empty_cell_beside_the_image_never_wins(folder, form, empty):
    rows = chat("What?", image="a.jpg", images=empty)
    if form == "dragonfly":
        text = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>".format
        rows[0]["conversations"] = text("user", "What?") + text("assistant", "Red.")
        rows[0]["image_url"] = empty
    for row in (rows[0], {**rows[0], "image": empty, "images": ["a.jpg"]}):
        shutil.rmtree(folder / "out", ignore_errors=True)
        (record,) = records(folder, form, write(folder / "r.jsonl", [row]))
        assert (said(record), record.images) == ([("What?", 1), ("Red.", 0)], (A,))
    assert "both given and differ" in refused(folder, form, write(folder / "r.jsonl", [{**row, "image": "b.jpg"}]))


@pytest.mark.parametrize(
    "cells",
    [
        {"image_1": {"path": "a.jpg"}},
        {"jpg": "a.jpg"},
        {"decoded_image": {"bytes": "x", "path": None}},
        {"photo_path": "a.jpg"},
        {"file_name": "photos/a b.JPEG"},
        {"img": 5},
        {"extra": [{"path": "a.webp"}]},
    ],
)
@pytest.mark.parametrize("form", ["llava", "messages", "parquet"])
def test_an_image_that_nobody_reads_is_refused(folder, form, cells):
    assert "looks like an image" in refused(folder, form, write(folder / "r.jsonl", chat("What?", **cells)))


@pytest.mark.parametrize(
    "cells", [{"image_id": 5}, {"num_images": 0}, {"image": None}, {"images": []}, {"note": "red"}]
)
def test_a_row_of_text_stays_one(folder, cells):
    (record,) = records(folder, "parquet", write(folder / "r.jsonl", chat("What is 1+1?", "2", **cells)))
    assert (said(record), record.images) == ([("What is 1+1?", 0), ("2", 0)], ())


def test_an_image_column_is_found_by_its_bytes_and_a_second_numbered_one_is_not_dropped(folder):
    row = {"pixels": A, "question": "What?", "answer": "Red."}
    assert "pixels: looks like an image" in refused(folder, "parquet", write(folder / "r.parquet", [row]))
    row = {"image": A, "image_2": B, "question": "What?", "answer": "Red."}
    assert "image_2: looks like an image" in refused(folder, "parquet", write(folder / "r.parquet", [row]))
    shutil.rmtree(folder / "out", ignore_errors=True)
    (record,) = records(folder, "parquet", folder / "r.parquet", image_columns=("image", "image_2"))
    assert record.images == (A, B)


@pytest.mark.parametrize(
    ("question", "cells", "reason"),
    [
        ("<image>\nWhat?", {}, "1 image placeholders but 0 images"),
        ("<image 1> What?", {}, "speaks of image 1"),
        ("What of <image_2>?", {"image": "a.jpg"}, "speaks of image 2"),
        ("<|image_1|>\nWhat?", {"image": "a.jpg"}, "the tag of an image is <image>"),
        ("<img>a.jpg</img>What?", {}, "the tag of an image is <image>"),
        ("<video>What?", {}, "has <video>"),
        ("Where is <bbox>?", {"image": "a.jpg"}, "has <bbox>"),
        ("What?", {"videos": ["a.mp4"]}, "videos: is given"),
        ("What?", {"audios": ["a.wav"], "image": "a.jpg"}, "audios: is given"),
        ("What?", {"objects": {"bbox": [[1, 2, 3, 4]]}, "image": "a.jpg"}, "objects: is given"),
        ("Compare<image>with", {"image": "a.jpg"}, "--images-first"),
        (" ", {"image": "a.jpg"}, None),
    ],
)
def test_what_a_chat_cannot_keep_is_refused(folder, question, cells, reason):
    path = write(folder / "r.jsonl", chat(question, **cells))
    if reason is None:  # an empty first question is filled from the source's prompts in training
        assert said(records(folder, "messages", path)[0]) == [("", 1), ("Red.", 0)]
    else:
        assert reason in refused(folder, "messages", path)


def test_images_inside_a_text_move_before_it_when_asked_and_words_stay_apart(folder):
    rows = chat("Compare<image>with <image>\nplease", images=["a.jpg", "b.jpg"])
    (record,) = records(folder, "messages", write(folder / "r.jsonl", rows), images_first=True)
    assert said(record)[0] == ("Compare with\nplease", 2)
    assert record.turns[0].places == ()
    parts = [{"type": "text", "text": "Compare"}, {"type": "image"}, {"type": "text", "text": "with"}]
    rows = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "No."}], "image": "a.jpg"}
    ]
    assert "--images-first" in refused(folder, "messages", write(folder / "r.jsonl", rows))


@pytest.mark.parametrize("answer", ["", " ", None, 3, 3.0, ["red"], {"text": "red"}, "See <image>."])
def test_an_answer_inside_a_conversation_is_a_text(folder, answer):
    rows = chat("What?", "Red.", image="a.jpg")
    rows[0]["conversations"] += chat("And?", answer)[0]["conversations"]
    assert refused(folder, "llava", write(folder / "r.jsonl", rows))


@pytest.mark.parametrize("answer", [None, "", 3.0, 0.5, float("nan"), True, {"text": "red"}, [["red"]], [None]])
@pytest.mark.parametrize("form", ["parquet", "vqa_rad", "slake", "path_vqa"])
def test_an_answer_is_a_text_a_whole_number_or_a_list_of_those(folder, form, answer):
    row = {"image": "a.jpg", "image_name": "a.jpg", "img_name": "a.jpg", "question": "How many?"}
    assert "answer" in refused(folder, form, write(folder / "r.jsonl", [{**row, "answer": answer}]))
    for given, told in ((3, "3"), (["one", "two", "two"], "two"), (["", "one"], "one")):
        shutil.rmtree(folder / "out", ignore_errors=True)
        (record,) = records(folder, form, write(folder / "r.jsonl", [{**row, "answer": given}]))
        assert said(record) == [("How many?", 1), (told, 0)]


def test_a_class_number_is_not_an_answer(folder):
    rows = [{"image": "a.jpg", "question": "What?", "label": 3}]
    assert "label: found 3" in refused(folder, "parquet", write(folder / "r.jsonl", rows))


@pytest.mark.parametrize(
    ("cells", "turns"),
    [
        ({"choices": ["red", "blue"], "answer": 1}, ("Colour?" + OPTIONS, "B")),
        ({"options": "['red', 'blue']", "answer": "A"}, ("Colour?" + OPTIONS, "A")),
        ({"choices": {"A": "red", "B": "blue"}, "answer": "blue"}, ("Colour?" + OPTIONS, "B")),
        ({"A": "red", "B": "blue", "answer": "b"}, ("Colour?" + OPTIONS, "B")),
        ({"choices": ["red", "blue"], "label": 0, "hint": "Look."}, ("Context: Look.\nColour?" + OPTIONS, "A")),
        ({"choices": [], "answer": "red"}, ("Colour?", "red")),
    ],
)
def test_a_question_with_choices_shows_them_and_learns_the_letter(folder, cells, turns):
    rows = [{"image": "a.jpg", "question": "<image>\nColour?", **cells}]
    (record,) = records(folder, "parquet", write(folder / "r.jsonl", rows))
    assert said(record) == [(turns[0], 1), (turns[1], 0)]


@pytest.mark.parametrize(
    "cells",
    [
        {"choices": ["red", "blue"], "answer": 2},
        {"choices": ["red", "blue"], "answer": "green"},
        {"choices": ["red", "blue"], "answer": None},
        {"choices": "red or blue", "answer": 0},
        {"choices": ["red", None], "answer": 0},
        {"option_a": "red", "option_b": "blue", "answer": "A"},
    ],
)
def test_choices_that_are_not_understood_are_refused(folder, cells):
    rows = [{"image": "a.jpg", "question": "Colour?", **cells}]
    assert refused(folder, "parquet", write(folder / "r.jsonl", rows))


def test_a_broken_line_costs_itself_and_names_the_line(folder):
    good = json.dumps({"image": "a.jpg", "caption": "A."})
    path = write(folder / "c.jsonl", f"{good}\n\n{{broken\n[1]\n" + "[" * 100_000 + f"\n{good}\n")
    assert len(records(folder, "captions", path, on_error="skip")) == 2
    lines = [json.loads(line) for line in (folder / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["file"], line["line"], line["row"]) for line in lines] == [("c.jsonl", n, n - 1) for n in (3, 4, 5)]


def test_slake_without_a_language_and_roco_with_a_mark(folder):
    rows = [{"img_name": "a.jpg", "question": "What?", "answer": "MRI"}]
    assert len(records(folder, "slake", write(folder / "train.jsonl", rows))) == 1
    shutil.rmtree(folder / "out")
    path = write(folder / "captions.txt", "\ufeffa\tA red thing.\n".encode())
    (record,) = records(folder, "roco", path)
    assert (record.meta["id"], record.images) == ("a", (A,))


@pytest.mark.parametrize("empty", ["", " ", "nan", "NaN", "null"])
def test_an_empty_cell_of_a_table_is_not_a_caption(folder, empty):
    path = write(folder / "c.csv", f"image,caption\na.jpg,{empty}\n")
    assert "caption: found" in refused(folder, "captions", path)


def test_no_row_says_why(folder):
    rows = [{"image_name": "a.jpg", "question": "What?", "answer": "MRI", "phrase_type": "test_para"}]
    with pytest.raises(ValueError, match=r"r.jsonl: no row could be packed: none is of --split train\."):
        records(folder, "vqa_rad", write(folder / "r.jsonl", rows))
    with pytest.raises(ValueError, match=r"c.csv: no row could be packed: the file has none\."):
        records(folder / "x", "captions", write(folder / "c.csv", "image,caption\n"))


def test_pack_ends_with_the_columns_and_samples_as_they_are_trained(folder, capsys):
    rows = chat("<image>What?\x1b[31m", image="a.jpg", id="1", score=0.5, tags=None)
    rows[0]["conversations"][1]["weight"] = 0
    path = write(folder / "r.jsonl", rows)
    argv = ["pack", "--from", "llava", str(path), "--images", str(folder / "images"), "--out", str(folder / "out")]
    assert main([*argv, "--source", "s", "--licence", "L", "--workers", "1"]) == 0
    told = capsys.readouterr().out
    lines = [line.split() for line in told.splitlines()]
    assert ["score", "0", "1", "0", "<-", "never", "read"] in lines
    assert ["conversations[].weight", "0", "1", "0", "<-", "never", "read"] in lines
    assert ["tags", "0", "0", "1"] in lines
    assert ["image", "1", "0", "0"] in lines
    assert "  user: <image> What?\\x1b[31m\n  assistant: [[Red.]]" in told


@pytest.mark.parametrize(
    ("question", "text", "places"),
    [
        ("First <image>, second <image>: what differs?", "First , second : what differs?", (6, 15)),
        ("Compare<image>with <image>\nplease", "Comparewith \nplease", (7, 12)),
        ("<image>\n<image> What?", "What?", ()),
        ("What? <image><image>", "What? ", (6, 6)),
        ("<image> a <image>", " a ", (0, 3)),
    ],
)
@pytest.mark.parametrize("form", ["llava", "messages", "parquet"])
def test_images_stay_where_their_tags_are_when_asked(folder, form, question, text, places):
    rows = chat(question, images=["a.jpg", "b.jpg"])
    path = folder / ("r.parquet" if form == "parquet" else "r.jsonl")
    (record,) = records(folder, form, write(path, rows), images_in_place=True)
    assert (record.turns[0].text, record.turns[0].places) == (text, places)
    assert (record.turns[0].num_images, record.images) == (2, (A, B))
    assert record.turns[0].with_images("[image]").count("[image]") == 2


def test_parts_stay_where_they_are_when_asked(folder):
    parts = [{"type": "text", "text": "Compare"}, {"type": "image"}, {"type": "text", "text": "with"}]
    rows = [
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "No."}], "image": "a.jpg"}
    ]
    (record,) = records(folder, "messages", write(folder / "r.jsonl", rows), images_in_place=True)
    assert record.turns[0].with_images("[image]") == "Compare [image] with"


@pytest.mark.parametrize("name", ["A.JPG", "images\\a.jpg", "images/a.jpg", "a.png"])
def test_the_file_that_a_name_may_mean_is_named(folder, name):
    path = write(folder / "rows.jsonl", chat("<image>Colour?", image=name))
    assert f"no such file in {folder / 'images'}. a.jpg is there: write the name as" in refused(folder, "llava", path)
