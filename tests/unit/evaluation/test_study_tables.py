"""A study says what its jobs measured, what its intervals allow, and which cells did not run."""

import json
import re
import shutil
from html import unescape

import pytest
import yaml

pytest.importorskip("scipy")
from dragonfly_lit.evaluation.curves import BESIDE
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.evaluation.study import command as study
from dragonfly_lit.evaluation.study.cells import Estimate, estimate, read_study, split_job
from dragonfly_lit.evaluation.study.questions import chance, questions_of
from dragonfly_lit.evaluation.study.tables import explanation, findings, row

SIZES = {"02%": 0.1, "09%": 0.2, "25%": 0.6}


def write_job(folder, cell, seed, better, *, done=True, recall=None):
    job = folder / f"cell={cell},seed={seed}"
    job.mkdir(parents=True)
    config = {
        "about": {"title": cell.replace("_", " + "), "parts": ["levels"]},
        "data_root": "nowhere",
        "benchmark": {"_target_": "x", "split": "test", "limit": None},
    }
    (job / "config.yaml").write_text(yaml.safe_dump(config))
    if not done:
        return
    groups = {name: {"num_questions": 100, "score": score + better + 0.01 * seed} for name, score in SIZES.items()}
    selection = None if recall is None else {"recall": recall + 0.01 * seed, "random": 0.2}
    entry = {
        "headline": "accuracy",
        "scores": {"accuracy": 0.3 + better + 0.01 * seed},
        "answers_per_s": 50.0,
        "groups": {"split": groups, "category": {"colour": {"num_questions": 150, "score": 0.4 + better}}},
        "selection": selection,
        "folder": "evaluation/probes",
        "answers": "answers/probes.jsonl",
    }
    result = {"val_loss": 1.0, "image_tokens": 18, "image_gflops": 0.1, "samples_per_s": 9.0, "config": config}
    (job / "result.json").write_text(json.dumps(result | {"benchmarks": {"probes": entry}}))


@pytest.fixture
def folder(tmp_path):
    sweep = tmp_path / "zoom_ablation"
    for seed in range(3):
        write_job(sweep, "low", seed, 0.0)
        write_job(sweep, "low_medium", seed, 0.02)
        write_job(sweep, "low_medium_high", seed, 0.3, done=seed < 2, recall=0.5)
    plan = {
        "hydra": {
            "sweeper": {"params": {"experiment/cell": "low,low_medium,low_medium_high,raster", "seed": "0,1,2"}},
            "overrides": {"task": ["experiment=zoom_ablation"]},
        }
    }
    (sweep / "multirun.yaml").write_text(yaml.safe_dump(plan))
    return sweep


def test_an_interval_is_students():
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high == pytest.approx(2.0 + 4.302653 / 3**0.5)
    assert estimate([0.0, 2.0] * 10).high == pytest.approx(1 + 2.093024 * (20 / 19) ** 0.5 / 20**0.5)
    assert estimate([1.0]).low is None
    assert estimate([None, float("nan")]) is None


def test_intervals_that_touch_tell_nothing_apart():
    one = Estimate(mean=1.0, low=0.5, high=1.5, num=3)
    assert not one.clear_of(Estimate(mean=2.0, low=1.5, high=2.5, num=3))
    assert one.clear_of(Estimate(mean=2.0, low=1.6, high=2.4, num=3))
    assert not one.clear_of(Estimate(mean=9.0, low=None, high=None, num=1))


def test_a_job_is_a_cell_and_a_seed():
    assert split_job("cell=low,seed=2") == ("cell=low", "2")
    assert split_job("zoom.top_k=1,zoom.high_crops=24") == ("zoom.top_k=1,zoom.high_crops=24", "0")


def test_small_details_are_weighed_by_their_questions(folder):
    found = read_study(folder)
    low = found.cells[0]
    assert found.small(0.09) == ["02%", "09%"]
    assert low.accuracy("probes", found.small(0.09)).mean == pytest.approx(0.15 + 0.01)


def test_cells_that_did_not_run_or_finish_say_so(folder):
    states = {cell.name: cell.state for cell in read_study(folder).cells}
    assert states == {
        "cell=low": "3 of 3 seeds",
        "cell=low_medium": "3 of 3 seeds",
        "cell=low_medium_high": "2 of 3 seeds",
        "cell=raster": "not run",
    }
    found = read_study(folder)
    assert row(found, found.cells[3], 0.09)[:2] == ("raster", "not run")


def test_only_intervals_that_do_not_overlap_are_called_a_difference(folder):
    write_job(folder, "low_low", 0, 0.9)
    found = read_study(folder)
    sentences = findings(found, found.parts["levels"], 0.09)
    assert sentences[0].startswith("low + medium is not told apart from low on details up to 9% of the side")
    assert sentences[1].startswith("low + medium + high is better than low + medium")
    assert any("Selection recall of low + medium + high beats a random choice" in sentence for sentence in sentences)


def test_the_command_writes_tables_curves_and_a_page_of_one_file(folder, capsys):
    pytest.importorskip("matplotlib")
    assert study.main([str(folder)]) == 0
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"study.md", "study.html", "accuracy_tokens_levels.svg", "accuracy_size_levels.png"} <= names
    page = (folder / "study.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 4
    assert "| raster | not run |" in (folder / "study.md").read_text()
    assert "raster (not run)" in page
    alts = re.findall(r'<img alt="([^"]*)"', page)
    assert alts[0].startswith("On the Pareto front of accuracy against image tokens: low + medium + high 60.5% at 18.")
    drawn = [(folder / f"accuracy_{name}_levels.svg").read_text() for name in ("tokens", "size")]
    for alt, svg, said in zip(alts[2:], drawn, ("image tokens, levels: low ", "the side, levels: low "), strict=True):
        assert said in alt
        assert f"<title>{unescape(alt)}</title>" in svg
        style = svg.partition("<style")[2].partition("</style>")[0]
        assert "@media (prefers-color-scheme: dark)" in style
        for colour in ("fill: #ffffff", "stroke: #000000", BESIDE):  # what the dark colours replace is what is drawn
            assert colour in style
            assert colour in svg.partition("</style>")[2]
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_chance_is_the_best_constant_answer_to_each_kind(folder):
    asked = [("colour", "red"), ("colour", "red"), ("colour", "blue"), ("shape", "circle"), ("shape", "triangle")]
    questions = [
        Question(id=str(i), task="probes", text="?", references=(answer,), category=kind)
        for i, (kind, answer) in enumerate(asked)
    ]
    assert chance(questions) == pytest.approx(3 / 5)
    assert questions_of(read_study(folder)) == ()
    assert chance(()) is None
    assert "would get 60.0%" in explanation(read_study(folder), 0.6)
    assert "constant" not in explanation(read_study(folder))


def test_the_curves_go_through_the_accuracies_of_the_table(folder):
    pytest.importorskip("matplotlib")
    from dragonfly_lit.evaluation.study.plots import against_sizes, against_tokens

    found = read_study(folder)
    low = found.cells[0]
    line = against_tokens(found, [low], "levels", None).axes[0].lines[-1]
    assert line.get_ydata() == pytest.approx([100 * low.accuracy("probes").mean])
    curve = against_sizes(found, [low], "levels", 0.25).axes[0].lines[0]
    assert curve.get_ydata() == pytest.approx([100 * (score + 0.01) for score in SIZES.values()])


def test_a_folder_without_a_scored_job_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished job that was scored"):
        study.main([str(tmp_path)])


def test_one_seed_tells_nothing_certain(folder):
    for seed in (1, 2):
        shutil.rmtree(folder / f"cell=low_medium,seed={seed}")
    sentences = findings(found := read_study(folder), found.parts["levels"], 0.09)
    assert sentences[0].startswith("low + medium against low on details up to 9% of the side: ")
    assert all(sentence.endswith(", where one seed tells nothing certain.") for sentence in sentences[:2])


def test_the_interval_of_shares_ends_where_shares_do():
    shares = estimate([0.96, 0.9], share=True)
    assert (shares.low, shares.high) == (pytest.approx(0.93 - 12.706 * 0.03, abs=1e-4), 1.0)
    assert estimate([0.0, 0.1], share=True).low == 0.0
    assert estimate([1.2, 0.9], share=True) == estimate([1.2, 0.9])
