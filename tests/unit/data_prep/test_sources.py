"""Every published format becomes the same records, and what is wrong in a row is said."""

import base64
import json
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from data_prep.job import Job
from data_prep.packing import pack
from data_prep.sources.conversations import Options
from data_prep.sources.dragonfly import parse_turns
from dragonfly_lit.data.dataset import open_dataset


def picture(colour: str, kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, kind)
    return out.getvalue()


RED, BLUE = picture("red"), picture("blue", "JPEG")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "xmlab1").mkdir(parents=True)
    (folder / "red.png").write_bytes(RED)
    (folder / "xmlab1" / "blue.jpg").write_bytes(BLUE)
    return folder


def packed(tmp_path, form, name, content, images=None, **options):
    """The records of a file `name` with `content`: rows, a table or a text."""
    path = tmp_path / name
    if isinstance(content, pa.Table):
        if path.suffix == ".parquet":
            pa.parquet.write_table(content, path)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, content.schema) as writer:
                writer.write_table(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))
    job = Job(
        form=form,
        path=path,
        images=images,
        out=tmp_path / "out",
        source="tiny",
        licence="CC0",
        options=Options(**options),
    )
    pack(job, workers=1)
    shards = open_dataset(tmp_path / "out")
    return [shards[i] for i in range(len(shards))]


def said(record):
    return [(turn.role, turn.text, turn.num_images) for turn in record.turns]


@pytest.mark.parametrize("name", ["llava.json", "llava.jsonl"])
def test_llava(tmp_path, images, name):
    rows = [
        {
            "id": "a1",
            "image": "red.png",
            "conversations": [{"from": "human", "value": "What colour?\n<image>"}, {"from": "gpt", "value": "Red."}],
        },
        {
            "id": "a2",
            "image": ["red.png", "xmlab1/blue.jpg"],
            "conversations": [{"from": "human", "value": "<image>\n<image>\nSame?"}, {"from": "gpt", "value": "No."}],
        },
        {"id": "a3", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    ]
    one, two, text = packed(tmp_path, "llava", name, rows, images)
    assert said(one) == [("user", "What colour?", 1), ("assistant", "Red.", 0)]
    assert (one.images, one.licence, one.source, one.meta) == ((RED,), "CC0", "tiny", {"id": "a1"})
    assert two.images == (RED, BLUE)
    assert said(two)[0] == ("user", "Same?", 2)
    assert text.images == ()


LLAMA = (
    "<|start_header_id|>user<|end_header_id|>\n\nWhat colour?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nRed.\nAll of it.<|eot_id|>"
)


@pytest.mark.parametrize("name", ["released.parquet", "released.json", "released.arrow"])
def test_released_dragonfly_records(tmp_path, images, name):
    rows = [
        {"image_url": "red.png", "conversations": LLAMA, "source": "llava"},
        {"image_url": "", "conversations": LLAMA, "source": "text"},
    ]
    content = rows if name.endswith("json") else pa.Table.from_pylist(rows)
    seen, text = packed(tmp_path, "dragonfly", name, content, images)
    assert said(seen) == [("user", "What colour?", 1), ("assistant", "Red.\nAll of it.", 0)]
    assert seen.meta == {"origin": "llava"}
    assert (seen.images, text.images) == ((RED,), ())


def test_released_captions_have_text_and_no_conversation(tmp_path, images):
    (record,) = packed(tmp_path, "dragonfly", "a.jsonl", [{"image_url": "red.png", "text": "A red thing."}], images)
    assert said(record) == [("user", "Describe the image.", 1), ("assistant", "A red thing.", 0)]


@pytest.mark.parametrize("text", ["", "hello", f"stray{LLAMA}", f"{LLAMA}stray", LLAMA.replace("user", "moderator")])
def test_text_that_is_no_conversation_is_refused(text):
    with pytest.raises(ValueError, match="turn"):
        parse_turns(text)


def test_begin_and_end_of_text_belong_to_no_turn():
    turns = parse_turns(f"<|begin_of_text|>{LLAMA}<|end_of_text|>")
    assert [turn.text for turn in turns] == ["What colour?", "Red.\nAll of it."]


def test_openai_messages_with_images_as_data_urls(tmp_path):
    url = "data:image/png;base64," + base64.b64encode(RED).decode()
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Colour?"}],
                },
                {"role": "assistant", "content": "Red."},
            ]
        }
    ]
    (record,) = packed(tmp_path, "messages", "chat.jsonl", rows)
    assert said(record) == [("system", "Be brief.", 0), ("user", "Colour?", 1), ("assistant", "Red.", 0)]
    assert record.images == (RED,)


def test_sharegpt_with_images_beside_the_conversation(tmp_path, images):
    rows = [
        {
            "images": ["red.png"],
            "conversations": [{"from": "human", "value": "<image>Colour?"}, {"from": "gpt", "value": "Red."}],
        }
    ]
    (record,) = packed(tmp_path, "messages", "chat.json", rows, images)
    assert said(record)[0] == ("user", "Colour?", 1)
    assert record.images == (RED,)


HUB_LAYOUTS = {
    "question": {"question": "Colour?", "answer": "Red.", "question_id": 7},
    "answers": {"question": "Colour?", "answers": ["Blue.", "Red.", "Red."]},
    "texts": {"texts": [{"user": "Colour?", "assistant": "Red.", "source": "x"}]},
    "conversations": {"conversations": [{"from": "human", "value": "Colour?"}, {"from": "gpt", "value": "Red."}]},
    "messages": {"messages": [{"role": "user", "content": "Colour?"}, {"role": "assistant", "content": "Red."}]},
}


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("layout", HUB_LAYOUTS)
def test_hub_layouts_with_image_bytes(tmp_path, layout, suffix):
    table = pa.Table.from_pylist([{"image": {"bytes": RED, "path": None}, **HUB_LAYOUTS[layout]}])
    (record,) = packed(tmp_path, "parquet", f"data.{suffix}", table)
    assert said(record) == [("user", "Colour?", 1), ("assistant", "Red.", 0)]
    assert record.images == (RED,)


def test_hub_captions_and_several_images(tmp_path):
    table = pa.Table.from_pylist([{"images": [{"bytes": RED}, {"bytes": BLUE}], "caption": "Two colours."}])
    (record,) = packed(tmp_path, "parquet", "data.parquet", table, prompt="Say what you see.")
    assert said(record) == [("user", "Say what you see.", 2), ("assistant", "Two colours.", 0)]


def test_a_table_without_a_text_names_its_columns(tmp_path):
    table = pa.Table.from_pylist([{"image": {"bytes": RED}, "headline": "Red"}])
    with pytest.raises(ValueError, match="the columns are image, headline"):
        packed(tmp_path, "parquet", "data.parquet", table)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", 'image,caption\nred.png,"A red, flat thing."\n'),
        ("captions.tsv", "file_name\ttext\nred.png\tA red, flat thing.\n"),
        ("captions.jsonl", [{"file_name": "red.png", "caption": "A red, flat thing."}]),
    ],
)
def test_captions_of_a_folder_of_images(tmp_path, images, name, content):
    (record,) = packed(tmp_path, "captions", name, content, images)
    assert said(record) == [("user", "Describe the image.", 1), ("assistant", "A red, flat thing.", 0)]


RAD = [
    {"qid": "1", "phrase_type": "freeform", "image_name": "red.png", "question": "Is it red?", "answer": "Yes",
     "answer_type": "CLOSED ", "question_type": "COLOR", "image_organ": "CHEST"},
    {"qid": "2", "phrase_type": "test_freeform", "image_name": "red.png", "question": "Shape?", "answer": "flat",
     "answer_type": "OPEN"},
    {"qid": "3", "phrase_type": "para", "image_name": "xmlab1/blue.jpg", "question": "How many?", "answer": 2,
     "answer_type": "OPEN"},
    {"qid": "4", "phrase_type": "para", "image_name": "red.png", "question": "Blue?", "answer": "No",
     "answer_type": "CLOSED"},
]  # fmt: skip


def test_vqa_rad_keeps_its_test_split_apart(tmp_path, images):
    train = packed(tmp_path, "vqa_rad", "VQA_RAD.json", RAD, images)
    assert [record.meta["question_ids"] for record in train] == [["1"], ["3"], ["4"]]
    assert said(train[1]) == [("user", "How many?", 1), ("assistant", "2", 0)]
    assert train[0].meta["answer_types"] == ["CLOSED"]


def test_vqa_rad_test_split(tmp_path, images):
    (record,) = packed(tmp_path, "vqa_rad", "VQA_RAD.json", RAD, images, split="test")
    assert record.meta["question_ids"] == ["2"]


def test_questions_about_one_image_share_it(tmp_path, images):
    red, blue = packed(tmp_path, "vqa_rad", "VQA_RAD.json", RAD, images, share_image=True)
    assert red.meta["question_ids"] == ["1", "4"]
    assert red.share_image
    assert [turn.text for turn in red.turns] == ["Is it red?", "Yes", "Blue?", "No"]
    assert blue.images == (BLUE,)


def test_slake_in_one_language(tmp_path, images):
    rows = [
        {
            "img_id": 1,
            "img_name": "xmlab1/blue.jpg",
            "question": "Modality?",
            "answer": "MRI",
            "q_lang": "en",
            "answer_type": "OPEN",
            "qid": 0,
        },
        {
            "img_id": 1,
            "img_name": "xmlab1/blue.jpg",
            "question": "模态?",
            "answer": "核磁",
            "q_lang": "zh",
            "answer_type": "OPEN",
            "qid": 1,
        },
    ]
    (record,) = packed(tmp_path, "slake", "train.json", rows, images)
    assert said(record) == [("user", "Modality?", 1), ("assistant", "MRI", 0)]
    assert record.images == (BLUE,)


def test_path_vqa_groups_the_questions_of_an_image(tmp_path):
    rows = [{"image": {"bytes": data}, "question": f"{n}?", "answer": "yes"} for n, data in enumerate([RED, RED, BLUE])]
    red, blue = packed(tmp_path, "path_vqa", "train.parquet", pa.Table.from_pylist(rows), share_image=True)
    assert [turn.text for turn in red.turns] == ["0?", "yes", "1?", "yes"]
    assert blue.meta == {"answer_types": ["CLOSED"]}


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "train_qa.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    job = Job(form="path_vqa", path=path, out=tmp_path / "out", source="path", licence="")
    with pytest.raises(ValueError, match="Parquet"):
        pack(job, workers=1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", "red\t A red thing.\n"),
        ("traindata.csv", "id,name,caption\nROCO_1,red.jpg,A red thing.\n"),
        ("train_captions.csv", "ID,Caption\nred,A red thing.\n"),
    ],
)
def test_roco_in_its_three_layouts(tmp_path, images, name, content):
    (images / "red.jpg").write_bytes(BLUE)
    (record,) = packed(tmp_path, "roco", name, content, images)
    assert said(record)[1] == ("assistant", "A red thing.", 0)
    assert record.images == (BLUE,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "red.png", "conversations": []}, "list of turns"),
        ({"image": "red.png", "conversations": [{"from": "cat", "value": "Mew"}]}, "roles are"),
        (
            {
                "image": "red.png",
                "conversations": [{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "!"}],
            },
            "2 image placeholders but 1 images",
        ),
        ({"conversations": [{"from": "human", "value": "Hello?"}]}, "nothing to learn"),
        (
            {"conversations": [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "a<|eot_id|>b"}]},
            "special token",
        ),
        ({"image": 7, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}, "type"),
    ],
)
def test_a_bad_row_is_named(tmp_path, images, row, reason):
    with pytest.raises(ValueError, match=reason):
        packed(tmp_path, "llava", "llava.json", [{"id": "bad", **row}], images)
