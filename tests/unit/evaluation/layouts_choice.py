"""Miniatures of further benchmarks' published layouts, most of them multiple choice, in their exact columns."""

import json

from miniatures import cell, parquet, picture, put, table, text_cell

# A maker writes a miniature below `root`; it returns options of the task, and how many questions and text-only ones.


def mmstar_rows(image):
    return [
        {
            "index": i,
            "question": f"Which? ({i})\nOptions: A: one, B: two, C: three, D: four",
            "image": image(i),
            "answer": "ABCD"[i],
            "category": ("math", "math", "logical reasoning")[i],
            "l2_category": ("geometry", "statistical reasoning", "diagram reasoning")[i],
        }
        for i in range(3)
    ]


def mmstar_hub(root):
    rows = [{**row, "meta_info": {"source": "MMMU", "split": "val", "image_path": "x"}} for row in mmstar_rows(picture)]
    parquet(root / "mmstar.parquet", rows)
    return {}, 3, 0


def mmstar_original(root):
    rows = [
        {**row, "question": f"<image 1> Which? ({i})", "A": "one", "B": "two", "C": "three", "D": "four"}
        for i, row in enumerate(mmstar_rows(text_cell))
    ]
    table(root / "MMStar.tsv", rows)
    return {}, 3, 0


REAL = [
    ("How far is the car?\nA. 5 m\nB. 10 m\nPlease answer directly with only the letter of the correct option.", "B"),
    ("How many lights are there? Please answer directly with a single word or number.", "3"),
    ("Where does the road go? Please answer directly with a single word or number.", "Downhill"),
]


def realworldqa_hub(root):
    rows = [{"image": cell(i), "question": text, "answer": answer} for i, (text, answer) in enumerate(REAL)]
    parquet(root / "data/test-00000-of-00002.parquet", rows)
    return {}, 3, 0


def realworldqa_original(root):
    rows = [{"image": f"{i}.webp", "question": text, "answer": answer} for i, (text, answer) in enumerate(REAL)]
    put(root / "annotations.json", rows)
    for i in range(3):
        put(root / f"images/{i}.webp", picture(i))
    return {}, 3, 0


def mmbench_rows(image):
    """Two questions, of three and of two choices, each in all orders of a circle."""
    rows = []
    for q, choices in enumerate((["red", "blue", "green"], ["cat", "dog"])):
        for turn in range(len(choices)):
            order = choices[turn:] + choices[:turn]
            rows.append(
                {
                    "index": 241 + q + 1_000_000 * turn,
                    "question": f"Which one is it?\n({q})",
                    "hint": "Look closely." if q else "nan",
                    "answer": "ABCD"[order.index(choices[0])],
                    **dict(zip("ABCD", [*order, "nan", "nan"], strict=False)),
                    "category": ("identity_reasoning", "object_localization")[q],
                    "image": image(q, turn),
                    "source": "x",
                    "L2-category": "attribute_reasoning",
                    "comment": "nan",
                    "split": "dev",
                }
            )
    return [{**row, "D": row.get("D", "nan")} for row in rows]


def mmbench_hub(root):
    parquet(root / "en/dev-00000-of-00001.parquet", mmbench_rows(lambda q, turn: cell(q)))
    return {}, 5, 0


def mmbench_original(root):
    rows = mmbench_rows(lambda q, turn: text_cell(q) if turn == 0 else str(241 + q))
    blank = [{key: "" if value == "nan" else value for key, value in row.items()} for row in rows]
    table(root / "mmbench_dev_en_20231003.tsv", blank)
    return {}, 5, 0


def seed_rows():
    choices = {f"choice_{letter}": f"choice {letter}" for letter in "abcd"}
    shared = {**choices, "data_type": "image", "question_type_id": 1}
    return [
        {**shared, "answer": "ABCD"[i], "data_id": f"145_{i}", "question": f"What ({i})?", "question_id": str(101 + i)}
        for i in range(3)
    ]


def seedbench_hub(root):
    rows = [{**row, "data_id": [row["data_id"]], "image": [cell(i)]} for i, row in enumerate(seed_rows())]
    rows[2] |= {"data_type": "video", "image": [cell(7), cell(8)]}
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 2, 0


def seedbench_original(root):
    rows = seed_rows()
    rows[2] |= {"data_type": "video", "segment": [0, 9]}
    put(root / "SEED-Bench.json", {"questions": rows, "question_type": {"Scene Understanding": 1}})
    for i in range(2):
        put(root / f"SEED-Bench-image/145_{i}", picture(i))
    return {}, 2, 0


def hallusion_rows():
    return [
        {
            "category": "VD",
            "subcategory": "illusion",
            "visual_input": "1",
            "set_id": "0",
            "figure_id": str(figure),
            "sample_note": "circle",
            "question_id": str(question),
            "question": f"Is the circle larger ({question})?",
            "gt_answer_details": "It is.",
            "gt_answer": str((figure + question) % 2),
            "filename": f"./hallusion_bench/VD/illusion/0_{figure}.png",
        }
        for figure in range(2)
        for question in range(2)
    ]


def hallusion_bench_hub(root):
    rows = [{**row, "image": cell(int(row["figure_id"]))} for row in hallusion_rows()]
    parquet(root / "data/image-00000-of-00001.parquet", rows)
    return {}, 4, 0


def hallusion_bench_original(root):
    without = {**hallusion_rows()[0], "category": "VS", "visual_input": "0", "filename": None}
    put(root / "HallusionBench.json", [*hallusion_rows(), without])
    for figure in range(2):
        put(root / f"hallusion_bench/VD/illusion/0_{figure}.png", picture(figure))
    return {}, 4, 0


def hallusion_bench_without(root):
    rows = [{**row, "category": "VS", "visual_input": "0", "image": None} for row in hallusion_rows()]
    parquet(root / "data/non_image-00000-of-00001.parquet", rows)
    return {"split": "non_image"}, 4, 4


MATH = [
    {"question": "What is it?", "choices": ["4", "6", "(A) or 9"], "unit": None, "precision": None, "answer": "6",
     "question_type": "multi_choice", "answer_type": "text"},
    {"question": "How long?", "choices": None, "unit": "cm", "precision": 1.0, "answer": "1.2",
     "question_type": "free_form", "answer_type": "float"},
    {"question": "How many?", "choices": None, "unit": None, "precision": None, "answer": "10",
     "question_type": "free_form", "answer_type": "integer"},
    {"question": "Which years?", "choices": None, "unit": None, "precision": None, "answer": "[2007, 2008]",
     "question_type": "free_form", "answer_type": "list"},
]  # fmt: skip


def mathvista_rows():
    meta = {"category": "general-vqa", "context": "table", "grade": "college", "task": "figure question answering"}
    for i, row in enumerate(MATH, start=1):
        yield {"pid": str(i), **row, "image": f"images/{i}.jpg", "metadata": {**meta, "skills": ["arithmetic"]}}


def mathvista_hub(root):
    rows = [{**row, "decoded_image": cell(i), "query": "?"} for i, row in enumerate(mathvista_rows())]
    parquet(root / "data/testmini-00000-of-00001-725687bf7a18d64b.parquet", rows)
    return {}, 4, 0


def mathvista_original(root):
    rows = {row["pid"]: row for row in mathvista_rows()}
    put(root / "annot_testmini.json", rows)
    for i, row in enumerate(rows.values()):
        put(root / row["image"], picture(i))
    return {}, 4, 0


def blink_row(task, number, images, choices, answer):
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCDE", choices, strict=False))
    prompt = f"Look at {task}.\nSelect from the following choices.\n{listed}"
    columns = {f"image_{n}": cell(n) if n <= images else None for n in range(1, 5)}
    return {
        "idx": f"val_{task}_{number}",
        "question": "Which?",
        "sub_task": task,
        "choices": choices,
        "answer": f"({answer})",
        "prompt": prompt,
        **columns,
    }


def blink_hub(root):
    rows = [blink_row("Counting", n, 1, ["0", "3", "2", "1"], "ABCD"[n]) for n in range(2)]
    for row in rows:
        del row["image_2"], row["image_3"], row["image_4"]
    parquet(root / "Counting/val-00000-of-00001.parquet", rows)
    parquet(
        root / "Jigsaw/val-00000-of-00001.parquet", [blink_row("Jigsaw", 1, 3, ["the second image", "the third"], "B")]
    )
    return {}, 3, 0


def blink_one_file(root):
    rows = [blink_row("Counting", n, 1, ["0", "3", "2", "1"], "ABCD"[n]) for n in range(2)]
    rows += [blink_row("Jigsaw", 1, 3, ["the second image", "the third"], "B")]
    parquet(root / "data/val-00000-of-00001.parquet", rows)
    return {}, 3, 0


def cv_rows():
    shared = {"choices": ["0", "1", "2"], "prompt": "How many?\n(A) 0\n(B) 1\n(C) 2"}
    kinds = (
        ("2D", "Count", "ADE20K"),
        ("2D", "Relation", "COCO"),
        ("3D", "Depth", "Omni3D"),
        ("3D", "Depth", "Omni3D"),
    )
    return [
        {
            "idx": i,
            "type": t,
            "task": task,
            "question": "?",
            **shared,
            "answer": f"({'ABCA'[i]})",
            "source": source,
            "filename": f"img/{t}/{i}.png",
        }
        for i, (t, task, source) in enumerate(kinds)
    ]


def cv_bench_hub(root):
    rows = [{**row, "image": cell(row["idx"])} for row in cv_rows()]
    parquet(root / "test_2d.parquet", rows[:2])
    parquet(root / "test_3d.parquet", rows[2:])
    return {}, 4, 0


def cv_bench_original(root):
    put(root / "test_2d.jsonl", "\n".join(map(json.dumps, cv_rows()[:2])) + "\n")
    put(root / "test_3d.jsonl", "\n".join(map(json.dumps, cv_rows()[2:])) + "\n")
    for row in cv_rows():
        put(root / row["filename"], picture(row["idx"]))
    return {}, 4, 0


PMC = ("What is the uptake pattern?", ["Diffuse", "Focal uptake", "None", "Cannot say"], "B")


def pmc_vqa_hub(root):
    text, choices, label = PMC
    row = {"image": cell(), "caption": "c", "question": text, "answer": choices[1], "answer label": label}
    row |= {f"choice {letter}": f" {letter.upper()}:{choice} " for letter, choice in zip("abcd", choices, strict=True)}
    parquet(root / "data/test-00000-of-00007.parquet", [row])
    return {}, 1, 0


def pmc_vqa_original(root):
    text, choices, label = PMC
    row = {"Figure_path": "PMC1_F1.jpg", "Question": text, "Answer": choices[1], "Answer_label": label}
    row |= {f"Choice {letter}": f" {letter}:{choice} " for letter, choice in zip("ABCD", choices, strict=True)}
    table(root / "test.csv", [row], delimiter=",")
    put(root / "images/PMC1_F1.jpg", picture())
    return {}, 1, 0


def pmc_vqa_second(root):
    text, choices, _ = PMC
    row = {"index": "7", "Figure_path": "PMC1_F1.jpg", "Caption": "c, d", "Question": text, "Answer": "B"}
    row |= {f"Choice {letter}": f" {letter}: {choice}" for letter, choice in zip("ABCD", choices, strict=True)}
    table(root / "test_2.csv", [row], delimiter=",")
    put(root / "figures/PMC1_F1.jpg", picture())
    return {"split": "test_2"}, 1, 0


def omnimedvqa_rows():
    return [
        {
            "dataset": "ACRIMA",
            "question_id": f"ACRIMA_{i:04d}",
            "question_type": "Disease Diagnosis",
            "question": "What is seen?",
            "gt_answer": ("Glaucoma", "Healthy eye")[i],
            "image_path": f"Images/ACRIMA/Im{i}.png",
            "option_A": "Glaucoma",
            "option_B": "Healthy eye",
            "option_C": "Cataract",
            "modality_type": "Fundus Photography",
        }
        for i in range(2)
    ]


def omnimedvqa_hub(root):
    parquet(
        root / "data/test-00000-of-00001.parquet", [{**r, "image": cell(i)} for i, r in enumerate(omnimedvqa_rows())]
    )
    return {}, 2, 0


def omnimedvqa_original(root):
    put(root / "QA_information/Open-access/ACRIMA.json", omnimedvqa_rows())
    for row in omnimedvqa_rows():
        put(root / row["image_path"], picture())
    return {}, 2, 0


def medxpertqa_rows():
    options = {letter: f"drug {letter}" for letter in "ABCDE"}
    listed = " ".join(f"({letter}) {drug}" for letter, drug in options.items())
    return [
        {
            "id": f"MM-{26 + i}",
            "question": f"A patient comes. What helps?\nAnswer Choices: {listed}",
            "options": options,
            "label": "CE"[i],
            "images": ["MM-26-a.jpeg", "MM-26-b.jpeg"][: i + 1],
            "medical_task": "Treatment",
            "body_system": "Skeletal",
            "question_type": "Reasoning",
        }
        for i in range(2)
    ]


def medxpertqa_original(root):
    put(root / "MM/test.jsonl", "\n".join(map(json.dumps, medxpertqa_rows())) + "\n")
    for letter in "ab":
        put(root / f"images/MM-26-{letter}.jpeg", picture())
    return {}, 2, 0


def medxpertqa_hub(root):
    parquet(root / "MM/test/0000.parquet", medxpertqa_rows())
    for letter in "ab":
        put(root / f"images/MM-26-{letter}.jpeg", picture())
    return {}, 2, 0


def vqav2_rows():
    answers = [{"answer": "Two", "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]
    return [
        {
            "question_type": "how many",
            "multiple_choice_answer": "2",
            "answers": answers,
            "image_id": 42,
            "answer_type": "number",
            "question_id": 42000 + i,
            "question": f"How many dogs ({i})?",
        }
        for i in range(2)
    ]


def vqav2_hub(root):
    parquet(root / "data/validation-00000-of-00068.parquet", [{**row, "image": cell()} for row in vqav2_rows()])
    return {}, 2, 0


def vqav2_original(root):
    asked = ("question_id", "image_id", "question")
    questions = [{key: row[key] for key in asked} for row in vqav2_rows()]
    notes = [{key: value for key, value in row.items() if key != "question"} for row in vqav2_rows()]
    put(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    put(root / "v2_mscoco_val2014_annotations.json", {"annotations": notes})
    put(root / "val2014/COCO_val2014_000000000042.jpg", picture())
    return {}, 2, 0


LAYOUTS = [
    ("mmstar", mmstar_hub), ("mmstar", mmstar_original), ("realworldqa", realworldqa_hub),
    ("realworldqa", realworldqa_original), ("mmbench", mmbench_hub), ("mmbench", mmbench_original),
    ("seedbench", seedbench_hub), ("seedbench", seedbench_original), ("hallusion_bench", hallusion_bench_hub),
    ("hallusion_bench", hallusion_bench_original), ("hallusion_bench", hallusion_bench_without),
    ("mathvista", mathvista_hub), ("mathvista", mathvista_original), ("blink", blink_hub), ("blink", blink_one_file),
    ("cv_bench", cv_bench_hub), ("cv_bench", cv_bench_original), ("pmc_vqa", pmc_vqa_hub),
    ("pmc_vqa", pmc_vqa_original), ("pmc_vqa", pmc_vqa_second), ("omnimedvqa", omnimedvqa_hub),
    ("omnimedvqa", omnimedvqa_original), ("medxpertqa", medxpertqa_hub), ("vqav2", vqav2_hub),
    ("vqav2", vqav2_original), ("medxpertqa", medxpertqa_original),
]  # fmt: skip
