"""Miniatures of the high-resolution benchmarks' published layouts, in their exact columns and file names."""

import json

from miniatures import cell, parquet, picture, put, table, text_cell

# A maker writes a miniature below `root`; it returns options of the task, and how many questions and text-only ones.

VSTAR_TEXT = (
    "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
    "Answer with the option's letter from the given choices directly."
)
VSTAR_PAIR = (
    "Is the dog left or right of the cat?\n(A) right\n(B) left\n"
    "Answer with the option's letter from the given choices directly."
)
VSTAR_ROWS = [
    {"text": VSTAR_TEXT, "category": "direct_attributes", "label": "A", "question_id": "0"},
    {"text": VSTAR_PAIR, "category": "relative_position", "label": "B", "question_id": "115"},
]


def vstar_hub(root):
    rows = [{**row, "image": cell(i)} for i, row in enumerate(VSTAR_ROWS)]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 2, 0


def vstar_original(root):
    lines = []
    for i, row in enumerate(VSTAR_ROWS):
        name = f"{row['category']}/sa_{i}.jpg"
        lines.append({"image": name, **row, "question_id": int(row["question_id"])})
        put(root / name, picture(i))
        boxes = [[1, 2, 2, 1], [5, 0, 3, 2]][: i + 1]
        notes = {"target_object": ["a", "b"][: i + 1], "bbox": boxes, "question": "?", "options": ["x", "y"]}
        put(root / name.replace(".jpg", ".json"), notes)
    put(root / "test_questions.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    return {}, 2, 0


def hr_rows(encode):
    choices = [*"wxyz"]
    return [
        {
            "index": 4 * q + turn,
            "question": f"What says sign {q}?",
            "answer": "ABCD"[turn],
            "category": ("single", "cross")[q],
            **dict(zip("ABCD", choices[-turn:] + choices[:-turn], strict=True)),
            "cycle_category": turn,
            "image": encode(q),
        }
        for q in range(2)
        for turn in range(4)
    ]


def hr_bench_hub(root):
    size = root.name[-2:]
    parquet(root / f"hr_bench_{size}.parquet", hr_rows(text_cell), group=3)
    return {}, 8, 0


def hr_bench_other_hub(root):
    size = root.name[-2:]
    parquet(root / f"data/hrbench_{size}-00000-of-00001.parquet", hr_rows(text_cell))
    return {}, 8, 0


def hr_bench_original(root):
    size = root.name[-2:]
    table(root / f"hr_bench_{size}.tsv", hr_rows(text_cell))
    return {}, 8, 0


REALWORLD = [
    ("Perception", "Monitoring", "Vehicle/counting", "How many buses?", ["13", "90", "77", "6", "None"], "E"),
    ("Reasoning", "Diagram and Table", "diagram", "Which year?", ["2029", "2030", "2031", "2032", "Other"], "C"),
]


def options(choices):
    return [f"({letter}) {choice}" for letter, choice in zip("ABCDE", choices, strict=True)]


def mme_realworld_hub(root):
    rows = [
        {
            "index": f"{task.lower()}/{i:04d}",
            "bytes": text_cell(i),
            "question": text,
            "multi-choice options": options(choices),
            "answer": answer,
            "category": f"{task}/{scenario}",
            "l2-category": kind,
        }
        for i, (task, scenario, kind, text, choices, answer) in enumerate(REALWORLD)
    ]
    parquet(root / "data/train-00000-of-00001.parquet", rows)
    return {}, 2, 0


def mme_realworld_original(root):
    rows = [
        {
            "Question_id": f"{task.lower()}/{i:04d}",
            "Image": f"monitoring_images/{i}.jpg",
            "Text": text,
            "Question Type": "Multiple Choice",
            "Answer choices": options(choices),
            "Ground truth": answer,
            "Category": kind,
            "Subtask": scenario,
            "Task": task,
        }
        for i, (task, scenario, kind, text, choices, answer) in enumerate(REALWORLD)
    ]
    name = "MME-RealWorld-Lite.json" if root.name.endswith("lite") else "MME_RealWorld.json"
    put(root / name, rows)
    for i in range(2):
        put(root / f"monitoring_images/{i}.jpg", picture(i))
    return {}, 2, 0


def docvqa_hub(root):
    rows = [
        {
            "questionId": str(337 + i),
            "question": "what is the date?",
            "question_types": ["handwritten", "form"],
            "image": cell(i),
            "docId": 279,
            "ucsf_document_id": "xnbl0037",
            "ucsf_document_page_no": "1",
            "answers": ["1/8/93", "8 January"],
            "data_split": "val",
        }
        for i in range(2)
    ]
    parquet(root / "DocVQA/validation-00000-of-00006.parquet", rows)
    return {}, 2, 0


def docvqa_original(root):
    row = {
        "questionId": 337,
        "question": "what is the date?",
        "question_types": ["handwritten", "form"],
        "image": "documents/xnbl0037_1.png",
        "docId": 279,
        "answers": ["1/8/93"],
        "data_split": "val",
    }
    lists = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": "val", "data": [row]}
    put(root / "spdocvqa_qas/val_v1.0_withQT.json", lists)
    put(root / "spdocvqa_images/xnbl0037_1.png", picture())
    return {}, 1, 0


def docvqa_old_original(root):
    row = {"questionId": 1, "question": "who?", "image": "documents/a_1.png", "answers": ["me"], "data_split": "val"}
    put(root / "val/val_v1.0.json", {"data": [row]})
    put(root / "val/documents/a_1.png", picture())
    return {}, 1, 0


def infographicvqa_hub(root):
    rows = [
        {
            "questionId": str(98301 + i),
            "question": "Which media?",
            "answers": ["linkedin"],
            "answer_type": ["single span"],
            "image": cell(i),
            "image_url": "x",
            "operation/reasoning": ["none"],
            "ocr": "{}",
            "data_split": "val",
        }
        for i in range(2)
    ]
    parquet(root / "InfographicVQA/validation-00000-of-00004.parquet", rows)
    return {}, 2, 0


def infographicvqa_original(root):
    row = {
        "questionId": 98301,
        "question": "Which media?",
        "image_local_name": "20471.jpeg",
        "image_url": "x",
        "ocr_output_file": "20471.json",
        "answers": ["linkedin"],
        "answer_type": ["single span"],
        "operation/reasoning": [],
        "data_split": "val",
    }
    put(root / "infographicsvqa_qas/infographicsVQA_val_v1.0_withQT.json", {"data": [row]})
    put(root / "infographicsvqa_images/20471.jpeg", picture())
    return {}, 1, 0


OCR = [
    ("IIIT5K", "what is written in the image?", "CENTRE", "Regular Text Recognition"),
    ("HME100k", "Please write out the expression of the formula.", "x ^ { 2 }",
     "Handwritten Mathematical Expression Recognition"),
    ("docVQA", "what is the date?", ["1/8/93", "8 January"], "Doc-oriented VQA"),
]  # fmt: skip


def ocrbench_hub(root):
    rows = [
        {
            "dataset": source,
            "question": text,
            "question_type": kind,
            "answer": [answers] if isinstance(answers, str) else answers,
            "image": cell(i),
        }
        for i, (source, text, answers, kind) in enumerate(OCR)
    ]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 3, 0


def ocrbench_original(root):
    rows = [
        {"dataset_name": s, "id": i, "image_path": f"{s}/test/{i}.png", "question": t, "answers": a, "type": k}
        for i, (s, t, a, k) in enumerate(OCR)
    ]
    put(root / "OCRBench.json", rows)
    for row in rows:
        put(root / "OCRBench_Images" / row["image_path"], picture(row["id"]))
    return {}, 3, 0


LAYOUTS = [
    ("vstar", vstar_hub), ("vstar", vstar_original), ("hr_bench_4k", hr_bench_hub),
    ("hr_bench_4k", hr_bench_original), ("hr_bench_8k", hr_bench_other_hub), ("hr_bench_8k", hr_bench_original),
    ("mme_realworld", mme_realworld_hub), ("mme_realworld", mme_realworld_original),
    ("mme_realworld_lite", mme_realworld_hub), ("mme_realworld_lite", mme_realworld_original),
    ("docvqa", docvqa_hub), ("docvqa", docvqa_original), ("docvqa", docvqa_old_original),
    ("infographicvqa", infographicvqa_hub), ("infographicvqa", infographicvqa_original),
    ("ocrbench", ocrbench_hub), ("ocrbench", ocrbench_original),
]  # fmt: skip
