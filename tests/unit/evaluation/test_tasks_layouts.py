"""Each benchmark end to end on miniatures of its published layouts, in their exact columns and file names."""

import io
import json

import layouts_choice
import layouts_highres
import pytest
from miniatures import cell, parquet, picture, put
from PIL import Image

from dragonfly_lit.evaluation.benchmarks.base import Benchmark
from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.metrics.yes_no import PERCEPTION

# A maker writes a miniature below `root`; it returns options of the task, and how many questions and text-only ones.


def ai2d_hub(root):
    rows = [{"question": f"q{i}", "options": [*"wxyz"], "answer": str(i), "image": cell(i)} for i in range(4)]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 4, 0


def ai2d_original(root):
    for name in ("0.png", "1.png"):
        questions = {
            f"What is {i}?": {
                "abcLabel": i == 1,
                "answerTexts": [*"abcd"],
                "correctAnswer": i,
                "questionId": f"{name}-{i}",
            }
            for i in range(2)
        }
        put(root / f"questions/{name}.json", {"imageName": name, "questions": questions})
        put(root / f"images/{name}", picture())
    put(root / "abc_images/1.png", picture())
    put(root / "ai2d_test_ids.csv", "1\n")
    return {}, 2, 0


def science_rows():
    shared = {"choices": ["up", "down"], "hint": "It falls.", "subject": "natural science", "topic": "physics"}
    return [{"question": f"q{i}", "answer": i % 2, **shared} for i in range(3)]


def scienceqa_hub(root):
    rows = [{**row, "image": None if i == 1 else cell(i)} for i, row in enumerate(science_rows())]
    parquet(root / "ScienceQA-FULL/test-00000-of-00001.parquet", rows)
    return {}, 3, 1


def scienceqa_other_hub(root):
    rows = [{**row, "image": None if i == 1 else cell(i)} for i, row in enumerate(science_rows())]
    parquet(root / "data/test-00000-of-00001-f0e719df791966ff.parquet", rows)
    return {"subset": "img"}, 2, 0


def scienceqa_original(root):
    problems = {str(i): {**row, "image": None if i == 1 else "image.png"} for i, row in enumerate(science_rows())}
    put(root / "problems.json", problems)
    put(root / "pid_splits.json", {"test": ["0", "1", "2"], "minitest": ["1", "2"]})
    for i in (0, 2):
        put(root / f"images/test/{i}/image.png", picture(i))
    return {}, 3, 1


def chartqa_hub(root):
    kinds = ("human_test", "augmented_test", "human_test")
    rows = [{"type": k, "question": f"q{i}", "answer": "5%", "image": cell(i)} for i, k in enumerate(kinds)]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 3, 0


def chartqa_other_hub(root):
    rows = [{"image": cell(i), "query": f"q{i}", "label": ["5"], "human_or_machine": i % 2} for i in range(3)]
    parquet(root / "data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet", rows)
    return {}, 3, 0


def chartqa_original(root):
    for part in ("human", "augmented"):
        put(root / f"test/test_{part}.json", [{"imgname": "7.png", "query": f"{part}?", "label": "12"}])
    put(root / "test/png/7.png", picture())
    return {}, 2, 0


def textvqa_hub(root):
    rows = [
        {
            "image_id": f"i{i // 2}",
            "question_id": 34602 + i,
            "question": "what is the brand?",
            "image": cell(i // 2),
            "answers": ["nokia"] * 10,
            "ocr_tokens": ["NOKIA", "2310"],
            "set_name": "val",
        }
        for i in range(3)
    ]
    parquet(root / "data/validation-00000-of-00001.parquet", rows)
    return {"ocr": True}, 3, 0


def textvqa_original(root):
    rows = [{"image_id": "i0", "question_id": 34602, "question": "what brand?", "answers": ["nokia"] * 10}]
    put(root / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    put(root / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [{"image_id": "i0", "ocr_tokens": ["NOKIA"]}]})
    put(root / "train_images/i0.jpg", picture())
    return {"ocr": True}, 1, 0


def vizwiz_hub(root):
    rows = [
        {
            "question_id": f"VizWiz_val_{i:08d}.jpg",
            "image": cell(i),
            "question": "what?",
            "category": "other",
            "answers": ["soup"] * 6 + ["can"] * 4,
        }
        for i in range(2)
    ]
    parquet(root / "data/val-00000-of-00001.parquet", rows)
    return {}, 2, 0


def vizwiz_original(root):
    answers = [{"answer": "soup", "answer_confidence": "yes"}] * 10
    name = "VizWiz_val_00000000.jpg"
    row = {"image": name, "question": "what?", "answers": answers, "answer_type": "other", "answerable": 1}
    put(root / "Annotations/val.json", [row])
    put(root / f"val/{name}", picture())
    return {}, 1, 0


def gqa_hub(root):
    questions = [
        {
            "id": f"20{i}",
            "imageId": "n1",
            "question": "Is it red?",
            "answer": "no",
            "fullAnswer": "No.",
            "isBalanced": True,
            "types": {"structural": "verify", "semantic": "attr", "detailed": "x"},
        }
        for i in range(3)
    ]
    parquet(root / "testdev_balanced_instructions/testdev-00000-of-00001.parquet", questions)
    parquet(root / "testdev_balanced_images/testdev-00000-of-00001.parquet", [{"id": "n1", "image": cell()}])
    return {}, 3, 0


def gqa_original(root):
    types = {"structural": "query", "semantic": "rel"}
    put(
        root / "testdev_balanced_questions.json",
        {
            "201": {"imageId": "n1", "question": "Who?", "answer": "boy", "types": types, "isBalanced": True},
        },
    )
    put(root / "images/n1.jpg", picture())
    return {}, 1, 0


def pope_rows(part):
    return [
        {
            "id": str(i),
            "question_id": str(i + 1),
            "question": f"Is there a {thing} in the image?",
            "image": cell(),
            "answer": "yes" if i % 2 else "no",
            "image_source": "COCO_val2014_000000016631",
            "category": part,
        }
        for i, thing in enumerate(("dog", "cat"))
    ]


def pope_hub(root):
    rows = [row for part in ("adversarial", "popular", "random") for row in pope_rows(part)]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 6, 0


def pope_hub_full(root):
    for part in ("adversarial", "popular", "random"):
        parquet(root / f"Full/{part}-00000-of-00001.parquet", pope_rows(part))
    return {"split": "popular"}, 2, 0


def pope_original(root):
    for part in ("adversarial", "popular", "random"):
        lines = [
            {"question_id": i, "image": "COCO_val2014_1.jpg", "text": "Is there a dog in the image?", "label": label}
            for i, label in enumerate(("yes", "no"), start=1)
        ]
        put(root / f"coco/coco_pope_{part}.json", "\n".join(map(json.dumps, lines)) + "\n")
    put(root / "val2014/COCO_val2014_1.jpg", picture())
    return {}, 6, 0


def mme_hub(root):
    rows = [
        {
            "question_id": f"{task}/{i}.png",
            "image": cell(),
            "question": f"{q}? Please answer yes or no.",
            "answer": "Yes" if q == "a" else "No",
            "category": task,
        }
        for task in ("existence", "code_reasoning")
        for i in range(2)
        for q in "ab"
    ]
    parquet(root / "data/test-00000-of-00002.parquet", rows[:3])
    parquet(root / "data/test-00001-of-00002.parquet", rows[3:])
    return {}, 8, 0


def mme_original(root):
    lines = "Is it? Please answer yes or no.\tYes\nIs it not? Please answer yes or no.\tNo\n"
    put(root / "existence/000001.txt", lines)
    put(root / "existence/000001.jpg", picture())
    put(root / "celebrity/questions_answers_YN/tt1.txt", lines)
    put(root / "celebrity/images/tt1.jpg", picture())
    return {}, 4, 0


def mme_eval_tool(root):
    put(root / "eval_tool/Your_Results/OCR.txt", "0001.jpg\tIs it?\tYes\tyes\n0001.jpg\tIs it not?\tNo\tno\n")
    put(root / "OCR/0001.jpg", picture())
    return {}, 2, 0


def mmmu_row(key, **fields):
    images = {f"image_{i}": None for i in range(1, 8)}
    return {
        "id": key,
        "question": "What is <image 1>?",
        "options": "['cat', \"dog's\", 'ox']",
        "answer": "B",
        "question_type": "multiple-choice",
        "explanation": "",
        "topic_difficulty": "Easy",
        "subfield": "s",
        "img_type": "['Tables']",
        **images,
        "image_1": cell(1),
        **fields,
    }


def mmmu_hub(root):
    parquet(root / "Accounting/validation-00000-of-00001.parquet", [mmmu_row("validation_Accounting_1")])
    parquet(
        root / "Art_Theory/validation-00000-of-00001.parquet",
        [
            mmmu_row("validation_Art_Theory_1", options="['<image 2>', '<image 3>']", image_2=cell(2), image_3=cell(3)),
            mmmu_row("validation_Art_Theory_2", options="[]", question_type="open", answer="0.5"),
        ],
    )
    return {}, 3, 0


def mmmu_other_hub(root):
    rows = [
        mmmu_row("validation_Math_3"),
        mmmu_row("validation_Math_4", options="[]", question_type="open", answer="['24/7', '3.429']"),
    ]
    parquet(root / "data/validation-00000-of-00001.parquet", rows)
    return {}, 2, 0


def mm_vet_hub(root):
    rows = [
        {"question_id": f"v1_{i}", "question": "x?", "answer": "-1<AND>-5", "image": cell(), "capability": "ocr,math"}
        for i in range(2)
    ]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 2, 0


def mm_vet_original(root):
    row = {"imagename": "v1_0.png", "question": "x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}
    put(root / "mm-vet.json", {"v1_0": row})
    put(root / "images/v1_0.png", picture())
    return {}, 1, 0


def medical_hub(root):
    answers = ("yes", "left lung", "No")
    rows = [{"image": cell(i), "question": f"q{i}?", "answer": answer} for i, answer in enumerate(answers)]
    parquet(root / "data/test-00000-of-00001-e5bc3d208bb4deeb.parquet", rows)
    return {}, 3, 0


def vqa_rad_original(root):
    rows = [
        {
            "qid": i,
            "phrase_type": phrase,
            "image_name": "synpic1.jpg",
            "question": "is it?",
            "answer": answer,
            "answer_type": kind,
            "question_type": "PRES",
            "image_organ": "HEAD",
        }
        for i, (phrase, answer, kind) in enumerate(
            [
                ("test_freeform", "Yes", "CLOSED "),
                ("test_para", 3, "OPEN"),
                ("freeform", "no", "CLOSED"),
            ]
        )
    ]
    put(root / "VQA_RAD Dataset Public.json", rows)
    put(root / "VQA_RAD Image Folder/synpic1.jpg", picture())
    return {}, 2, 0


def slake_original(root):
    rows = [
        {
            "img_id": 1,
            "img_name": "xmlab1/source.jpg",
            "question": "Is it CT?",
            "answer": answer,
            "q_lang": language,
            "location": "Lung",
            "modality": "CT",
            "answer_type": kind,
            "base_type": "vqa",
            "content_type": "Modality",
            "triple": ["vhead", "_", "_"],
            "qid": i,
        }
        for i, (answer, language, kind) in enumerate(
            [
                ("Yes", "en", "CLOSED"),
                ("Lung", "en", "OPEN"),
                ("是", "zh", "OPEN"),
            ]
        )
    ]
    put(root / "test.json", rows)
    put(root / "imgs/xmlab1/source.jpg", picture())
    return {}, 2, 0


def path_vqa_original(root):
    rows = [{"image": "test_0001", "question": "is it?", "answer": "yes"}]
    put(root / "qas/test/test_qa.jsonl", "\n".join(map(json.dumps, rows)))
    put(root / "images/test/test_0001.jpg", picture())
    return {}, 1, 0


def r2gen(root):
    row = {"id": "CXR1_IM-1", "report": "The heart is normal .", "image_path": ["CXR1/0.png", "CXR1/1.png"]}
    put(root / "annotation.json", {"train": [], "val": [], "test": [{**row, "split": "test"}]})
    for i in range(2):
        put(root / f"images/CXR1/{i}.png", picture(i))
    return {}, 1, 0


def biocaption_iu(root):
    put(root / "test_images.tsv", "a.png;b.png\tthe lungs are clear\n")
    for name in "ab":
        put(root / f"iu_xray_images/{name}.png", picture())
    return {}, 1, 0


def biocaption_peir(root):
    put(root / "test_images.tsv", "0001.jpg\tgross , liver , cirrhosis\n0002.jpg\tgross , heart , fat\n")
    for i in (1, 2):
        put(root / f"peir_gross_images/000{i}.jpg", picture(i))
    return {}, 2, 0


def caption_hub(root):
    rows = [{"image": cell(i), "image_id": f"ROCO_0000{i}", "caption": f"CT of lesion {i}"} for i in range(3)]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return {}, 3, 0


def roco_original(root):
    put(root / "data/test/radiology/testdata.csv", 'id,name,caption\nROCO_1,PMC1.jpg,"CT, axial view\n"\n')
    put(root / "data/test/radiology/images/PMC1.jpg", picture())
    return {}, 1, 0


def roco_captions(root):
    base = root / "data/test/radiology"
    put(base / "captions.txt", "ROCO_00001\t CT, axial view.\nROCO_00002\tChest X-ray\n")
    for number in (1, 2):
        put(base / f"images/ROCO_0000{number}.jpg", picture(number))
    return {}, 2, 0


def mmmu_test(root):
    parquet(root / "Math/test-00000-of-00001.parquet", [mmmu_row("test_Math_1"), mmmu_row("test_Math_2", answer="C")])
    return {"split": "test"}, 2, 0


LAYOUTS = [
    ("ai2d", ai2d_hub), ("ai2d", ai2d_original), ("scienceqa", scienceqa_hub), ("scienceqa", scienceqa_other_hub),
    ("scienceqa", scienceqa_original), ("chartqa", chartqa_hub), ("chartqa", chartqa_other_hub),
    ("chartqa", chartqa_original), ("textvqa", textvqa_hub), ("textvqa", textvqa_original), ("vizwiz", vizwiz_hub),
    ("vizwiz", vizwiz_original), ("gqa", gqa_hub), ("gqa", gqa_original), ("pope", pope_hub), ("pope", pope_hub_full),
    ("pope", pope_original), ("mme", mme_hub), ("mme", mme_original), ("mme", mme_eval_tool), ("mmmu", mmmu_hub),
    ("mmmu", mmmu_other_hub), ("mm_vet", mm_vet_hub), ("mm_vet", mm_vet_original), ("vqa_rad", medical_hub),
    ("vqa_rad", vqa_rad_original), ("slake", medical_hub), ("slake", slake_original), ("path_vqa", medical_hub),
    ("path_vqa", path_vqa_original), ("iu_xray", r2gen), ("iu_xray", biocaption_iu), ("peir_gross", biocaption_peir),
    ("peir_gross", caption_hub), ("roco", caption_hub), ("roco", roco_original),
    ("roco", roco_captions), ("mmmu", mmmu_test), ("mimic_cxr", r2gen),
    ("mimic_cxr", caption_hub), ("iu_xray", caption_hub),
    *layouts_highres.LAYOUTS, *layouts_choice.LAYOUTS,
]  # fmt: skip
ids = [f"{name}-{make.__name__}" for name, make in LAYOUTS]


def score(task: Benchmark, questions, answer) -> dict[str, float]:
    judged = {question.id: 0.5 for question in questions} if task.judged else None
    metric = task.metric(questions, judged)
    for question in questions:
        metric.update(answer(question), question)
    return metric.compute()


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_a_miniature_of_the_published_layout_is_read_and_scored(tmp_path, name, make):
    options, num_questions, num_text_only = make(tmp_path / name)
    task = BENCHMARKS[name](**options)
    questions = task.questions(tmp_path)
    assert len(questions) == num_questions
    assert sum(not question.images for question in questions) == num_text_only
    for question in questions:
        assert all(Image.open(io.BytesIO(content)).size == (8, 6) for content in question.read_images())
    right = score(task, questions, lambda question: question.references[0])
    wrong = score(task, questions, lambda question: "zebra crossing")
    subtasks = {question.category for question in questions} & set(PERCEPTION)
    best = {"perception": 200 * len(subtasks), "score": 0.5}.get(task.headline, 1)
    assert right[task.headline] == pytest.approx(best)
    assert right[task.headline] >= wrong[task.headline]
    assert task.count_note(num_questions) is None or "published split has" in task.count_note(num_questions)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_a_limit_takes_the_first_questions(tmp_path, name, make):
    options, _, _ = make(tmp_path / name)
    limited = BENCHMARKS[name](**options, limit=1).questions(tmp_path)
    assert len(limited) == (2 if name == "mme" else 1)
    assert limited == BENCHMARKS[name](**options).questions(tmp_path)[: len(limited)]


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in ("easy_vqa", "probes", "pages")])
def test_an_empty_folder_is_told_what_was_expected(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: there is no folder.*Expected.*data_prep benchmark {name}"):
        BENCHMARKS[name]().questions(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: .*has no .*Expected.*data_prep benchmark {name}"):
        BENCHMARKS[name]().questions(tmp_path)


def test_both_layouts_of_a_benchmark_that_numbers_its_questions_give_the_same_ids(tmp_path):
    for make, place in ((vizwiz_hub, "a"), (vizwiz_original, "b")):
        make(tmp_path / place / "vizwiz")
    hub, original = (BENCHMARKS["vizwiz"]().questions(tmp_path / place) for place in "ab")
    assert original[0].id == hub[0].id == "VizWiz_val_00000000"


def test_questions_about_one_image_share_its_identity(tmp_path):
    pope_hub(tmp_path / "pope")
    gqa_hub(tmp_path / "gqa")
    textvqa_hub(tmp_path / "textvqa")
    for name, num_images in (("pope", 1), ("gqa", 1), ("textvqa", 2)):
        assert len({question.image_keys for question in BENCHMARKS[name]().questions(tmp_path)}) == num_images


def test_the_images_of_a_question_come_in_the_order_of_their_numbers(tmp_path):
    mmmu_hub(tmp_path / "mmmu")
    question = BENCHMARKS["mmmu"]().questions(tmp_path)[1]
    assert [Image.open(io.BytesIO(content)).getpixel((0, 0))[0] for content in question.read_images()] == [1, 2, 3]


def test_the_whole_demo_is_there():
    questions = BENCHMARKS["easy_vqa"]().questions("anywhere")
    assert len(questions) == 9673
    assert questions[123].id == "test-000123"
    assert questions[0].image_keys == questions[1].image_keys, "several questions share an image"


def test_a_copy_of_mmmu_from_before_its_answers_were_published_is_named(tmp_path):
    parquet(tmp_path / "mmmu/Math/test-00000-of-00001.parquet", [mmmu_row("test_Math_1", answer="?")])
    with pytest.raises(ValueError, match=r"question test_Math_1 has no answer: .* before 2026-02-12"):
        BENCHMARKS["mmmu"](split="test").questions(tmp_path)


def test_a_line_of_captions_without_a_tab_is_named(tmp_path):
    put(tmp_path / "roco/data/test/radiology/captions.txt", "ROCO_00001 CT\n")
    with pytest.raises(ValueError, match="line 1 has no tab between id and caption"):
        BENCHMARKS["roco"]().questions(tmp_path)
