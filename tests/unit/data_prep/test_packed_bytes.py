"""What correct files were packed to before rows were typed, byte by byte: it must not change."""

import base64
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from data_prep.job import Job
from data_prep.packing import pack
from data_prep.sources.conversations import Options

RED = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
BLUE = RED + b"\0"
IM = {"bytes": RED, "path": "a.png"}
DATA_URL = "data:image/png;base64," + base64.b64encode(RED).decode()
L = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat colour?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nRed.\nAll of it.<|eot_id|>"
)


def conv(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


CASES = {
    "llava.json": (
        "llava",
        [
            {"id": "a1", "image": "red.png", "conversations": conv("<image>\nWhat colour?", " Red. ")},
            {
                "id": 7,
                "image": ["red.png", "x/blue.png"],
                "conversations": conv("<image>\n<image>\nSame?", "No.") + conv("Sure?\n\nReally? ", "Yes."),
            },
            {"id": "a3", "conversations": conv("2+2?", "4")},
            {"id": "a4", "image": "red.png", "conversations": conv("What?\n<image>", "é\u2028")},
            {"id": "a5", "image": "", "conversations": conv("How?", "So."), "model": "x"},
            {
                "id": "a6",
                "image": "red.png",
                "conversations": [{"from": "system", "value": "Be kind."}, *conv("What?", "A.")],
            },
            {"id": "a7", "image": "red.png", "conversations": conv("<image>", "A caption.")},
        ],
        {},
    ),
    "dragonfly.parquet": (
        "dragonfly",
        [
            {"image_url": "red.png", "conversations": L, "source": "llava"},
            {"image_url": "", "conversations": L, "source": "text"},
        ],
        {},
    ),
    "dragonfly.jsonl": (
        "dragonfly",
        [{"image_url": "red.png", "text": "A red thing."}, {"image_url": ["red.png"], "conversations": L, "id": "q"}],
        {},
    ),
    "messages.jsonl": (
        "messages",
        [
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": DATA_URL}},
                            {"type": "text", "text": "Colour?"},
                        ],
                    },
                    {"role": "assistant", "content": "Red."},
                ]
            },
            {"id": "m", "images": ["red.png"], "conversations": conv("<image>Colour?", "Red.")},
            {
                "image": "red.png",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What "},
                            {"type": "text", "text": "colour?"},
                            {"type": "image"},
                        ],
                    },
                    {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
                ],
            },
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        ],
        {},
    ),
    "parquet.parquet": (
        "parquet",
        [
            {
                "image": IM,
                "question": "Colour?",
                "answer": "Red.",
                "question_id": 7,
                "question_type": "what",
                "source": "s",
            }
        ],
        {},
    ),
    "answers.parquet": ("parquet", [{"image": IM, "question": "Colour?", "answers": ["Blue.", "Red.", "Red."]}], {}),
    "texts.parquet": (
        "parquet",
        [
            {
                "images": [IM],
                "texts": [
                    {"user": "Colour?", "assistant": "Red.", "source": "x"},
                    {"user": "Sure?", "assistant": "Yes."},
                ],
            }
        ],
        {},
    ),
    "conv.arrow": ("parquet", [{"image": RED, "conversations": conv("Colour?", "Red.")}], {}),
    "caption.parquet": (
        "parquet",
        [{"images": [IM, {"bytes": BLUE, "path": None}], "caption": "Two colours."}],
        {"prompt": "Say."},
    ),
    "captions.parquet": ("parquet", [{"image": IM, "caption": ["One.", "Two."], "image_id": "q.jpg"}], {}),
    "captions.csv": ("captions", 'id,image,caption\n1,red.png,"A red, ""flat""\nthing."\n,x/blue.png,Blue\n', {}),
    "captions.tsv": ("captions", "file_name\ttext\nred.png\tA red, flat thing.\n", {}),
    "captions.jsonl": ("captions", [{"file_name": "red.png", "caption": "A red thing.", "text": "other"}], {}),
    "VQA_RAD.json": (
        "vqa_rad",
        [
            {
                "qid": "1",
                "phrase_type": "freeform",
                "image_name": "red.png",
                "question": "Is it red?",
                "answer": "Yes",
                "answer_type": "CLOSED ",
            },
            {
                "qid": "2",
                "phrase_type": "test_freeform",
                "image_name": "red.png",
                "question": "Shape?",
                "answer": "flat",
                "answer_type": "OPEN",
            },
            {
                "qid": 3,
                "phrase_type": "para",
                "image_name": "x/blue.png",
                "question": "How many?",
                "answer": 2,
                "answer_type": "OPEN",
            },
            {
                "qid": "4",
                "phrase_type": "para",
                "image_name": "red.png",
                "question": "Blue?",
                "answer": "No",
                "answer_type": "CLOSED",
            },
        ],
        {},
    ),
    "slake.json": (
        "slake",
        [
            {
                "img_name": "red.png",
                "question": "Modality?",
                "answer": "MRI",
                "q_lang": "en",
                "answer_type": "OPEN",
                "qid": 0,
            },
            {
                "img_name": "red.png",
                "question": "模态?",
                "answer": "核磁",
                "q_lang": "zh",
                "answer_type": "OPEN",
                "qid": 1,
            },
            {
                "img_name": "red.png",
                "question": "What?",
                "answer": "Yes",
                "q_lang": "en",
                "answer_type": "CLOSED",
                "qid": 2,
            },
        ],
        {"share_image": True},
    ),
    "path.parquet": (
        "path_vqa",
        [
            {"image": IM, "question": "0?", "answer": "yes"},
            {"image": IM, "question": "1?", "answer": "a b"},
            {"image": {"bytes": BLUE, "path": None}, "question": "2?", "answer": "no"},
        ],
        {"share_image": True},
    ),
    "roco.txt": ("roco", "red\t A red thing.\n\nx/blue\tBlue.\n", {}),
    "traindata.csv": ("roco", "id,name,caption\nROCO_1,red.png,A red thing.\n", {}),
    "train_captions.csv": ("roco", "ID,Caption\nred,A red thing.\n", {}),
}
CASES["RAD_shared.json"] = ("vqa_rad", CASES["VQA_RAD.json"][1], {"share_image": True})
SHA256 = {
    "llava.json": "8c0434e625d12081",
    "dragonfly.parquet": "db7abd3218ce21b8",
    "dragonfly.jsonl": "74455ad0876a5349",
    "messages.jsonl": "f9ce9562a42f5409",
    "parquet.parquet": "ab07d40670082ff6",
    "answers.parquet": "45c3b0b07bffb8e8",
    "texts.parquet": "d3742e57b2894f15",
    "conv.arrow": "45c3b0b07bffb8e8",
    "caption.parquet": "5d7ed91984e0b4dd",
    "captions.parquet": "1fdcf440f1c69f84",
    "captions.csv": "c156ae6947c5437c",
    "captions.tsv": "d9414ab3d8a6f5dc",
    "captions.jsonl": "263fd3d1bab8fabe",
    "VQA_RAD.json": "bf2b4185bd07836a",
    "RAD_shared.json": "3858aa01e7cce144",
    "slake.json": "9f31737d1244c3f9",
    "path.parquet": "daf13ae470038480",
    "roco.txt": "07dea937152761a6",
    "traindata.csv": "11cac7b4d3345640",
    "train_captions.csv": "370689d8e8f10cd6",
}


@pytest.mark.parametrize("name", CASES)
def test_a_correct_file_is_packed_as_before(tmp_path, name):
    form, content, options = CASES[name]
    (tmp_path / "images" / "x").mkdir(parents=True)
    for image, data in (("red", RED), ("x/blue", BLUE)):
        for kind in ("png", "jpg"):
            (tmp_path / "images" / f"{image}.{kind}").write_bytes(data)
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(content)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))
    images, out = tmp_path / "images", tmp_path / "out"
    pack(
        Job(form=form, path=path, images=images, out=out, source="s", licence="L", options=Options(**options)),
        workers=1,
    )
    assert hashlib.sha256((out / "s-00000.tar").read_bytes()).hexdigest()[:16] == SHA256[name]
