"""A miniature of every layout of every benchmark, from its files to the report: asked of a model, and scored alone."""

import json
from dataclasses import replace

import pytest
from test_runner_resume import PROCESSOR, SETTINGS
from test_tasks_layouts import LAYOUTS, ids

from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS
from dragonfly_lit.evaluation.images import image_at, place_of
from dragonfly_lit.evaluation.runner import run, score_predictions
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.processing.images import decode


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3).eval()


def results_of(out) -> dict:
    """The results in a folder, whose page and table are there too."""
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "results.md").read_text().startswith("# Results")
    return json.loads((out / "results.json").read_text())


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_a_miniature_runs_from_its_files_to_the_report(tmp_path, model, name, make):
    options, num_questions, _ = make(tmp_path / name)
    benchmark = BENCHMARKS[name](**options)
    settings = replace(SETTINGS, data_root=tmp_path, max_new_tokens=2, batch_tokens=20_000, resamples=5)
    run([benchmark], model=model, processor=PROCESSOR, out=tmp_path / "asked", settings=settings)
    entry = results_of(tmp_path / "asked")["benchmarks"][name]
    assert entry["num_questions"] == num_questions
    lines = (tmp_path / "asked/answers" / f"{name}.jsonl").read_text().splitlines()
    assert len(lines) == num_questions
    if benchmark.judged:
        assert entry["waits_for"] == "a judge"
        return
    assert entry["headline"] in entry["scores"]
    # The gold answers, as a file of predictions, and the model's own answers, scored again.
    questions = benchmark.questions(tmp_path)
    golds = [{"id": question.id, "prediction": question.references[0]} for question in questions]
    (tmp_path / "golds.jsonl").write_text("".join(f"{json.dumps(gold)}\n" for gold in golds))
    score_predictions(benchmark, tmp_path / "golds.jsonl", tmp_path / "golds", settings=settings)
    best = results_of(tmp_path / "golds")["benchmarks"][name]
    assert best["scores"][entry["headline"]] >= entry["scores"][entry["headline"]]
    again = score_predictions(
        benchmark, tmp_path / "asked/answers" / f"{name}.jsonl", tmp_path / "again", settings=settings
    )
    assert again["benchmarks"][name]["scores"] == entry["scores"]


def test_every_benchmark_has_its_original_and_its_other_layout():
    layouts = {name: {make.__name__ for other, make in LAYOUTS if other == name} for name, _ in LAYOUTS}
    assert {name for name, found in layouts.items() if len(found) < 2} == set()
    assert set(BENCHMARKS) - set(layouts) == {"easy_vqa", "probes", "pages"}, "these have no files to lay down"


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=ids)
def test_every_image_has_a_place_that_a_command_can_name(tmp_path, name, make):
    options, _, _ = make(tmp_path / name)
    for question in BENCHMARKS[name](**options).questions(tmp_path):
        for image, data in zip(question.images, question.read_images(), strict=True):
            found = image_at(place_of(image))
            assert (found if isinstance(found, bytes) else found.read_bytes()) == data


@pytest.mark.parametrize("place", ["#9:image", "#0:none", "#0.5:image", "#0+9", "#7777+9"])
def test_a_place_without_an_image_is_named_in_one_line(tmp_path, place):
    ((_, make), *_) = [each for each in LAYOUTS if each[1].__name__ == "ai2d_hub"]
    make(tmp_path)
    (file,) = tmp_path.rglob("*.parquet")
    with pytest.raises(ValueError, match="there is no image in the table") as error:
        decode(image_at(f"{file}{place}"))
    assert "\n" not in str(error.value)
