"""What a study says of differences: p values, their adjustment, seeds that are needed, and the Pareto front."""

import random

import pytest

from dragonfly_lit.evaluation.study.cells import Cell, Study, estimate
from dragonfly_lit.evaluation.study.differences import (
    comparisons,
    holm,
    least_difference,
    power,
    seeds_needed,
    spread,
    welch,
)
from dragonfly_lit.evaluation.study.frontier import front, on_fronts
from dragonfly_lit.evaluation.study.overview import compared_seen, power_seen

pytest.importorskip("scipy")


def result(score, tokens, recall=None):
    groups = {"split": {"02%": {"num_questions": 5, "score": score}, "25%": {"num_questions": 5, "score": 0.9}}}
    selection = None if recall is None else {"recall": recall, "random": 0.2, "by_split": {"02%": recall / 2}}
    entry = {"headline": "accuracy", "scores": {"accuracy": score}, "groups": groups, "selection": selection}
    return {"benchmarks": {"probes": entry}, "image_tokens": tokens, "image_gflops": tokens / 100}


def study_of(tmp_path, cells):
    made = []
    for name, (parts, scores, tokens, recalls) in cells.items():
        results = {str(s): result(score, tokens, r) for s, (score, r) in enumerate(zip(scores, recalls, strict=True))}
        made.append(Cell(name=name, title=name, parts=parts, results=results))
    return Study(folder=tmp_path, cells=tuple(made), benchmark="probes")


@pytest.fixture
def study(tmp_path):
    none = (None, None, None)
    return study_of(
        tmp_path,
        {
            "a": (("one", "two"), (0.20, 0.21, 0.22), 18, none),
            "b": (("one", "two"), (0.60, 0.62, 0.61), 30, none),
            "c": (("one",), (0.60, 0.59, 0.61), 40, (0.5, 0.55, 0.6)),
        },
    )


def test_holm_is_that_of_a_worked_example():
    # 0.005 x 4, 0.01 x 3, then 0.03 x 2, and 0.04, which may not be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_welch_is_that_of_a_worked_example():
    """t = 1 / sqrt(0.01 / 3 + 0.04 / 3) = 7.746 with 2.94 degrees of freedom, by hand."""
    assert welch([1.9, 2.0, 2.1], [0.8, 1.0, 1.2]) == pytest.approx(0.0048, abs=2e-4)
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]) == 0.0


@pytest.mark.parametrize(("size", "needed"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)])
def test_seeds_are_those_of_the_tables_of_power(size, needed):
    """Of the two-sided t test at 0.05 with 80% power: Cohen (1988), table 2.4.1, and G*Power."""
    assert seeds_needed(size, 1.0) == needed
    assert power(size, 1.0, needed) >= 0.8 > power(size, 1.0, needed - 1)
    assert least_difference(1.0, needed) == pytest.approx(size, rel=0.04)


def test_more_comparisons_and_more_spread_need_more_seeds():
    assert seeds_needed(0.03, 0.02, level=0.05 / 30) > seeds_needed(0.03, 0.02) > seeds_needed(0.03, 0.01)
    assert seeds_needed(0.03, 0.0) == 2
    assert seeds_needed(1e-5, 1.0) is None


def test_the_spread_is_pooled_over_cells():
    # Squares around the means: 2 with two degrees of freedom, and 8 with one.
    assert spread([estimate([1.0, 2.0, 3.0]), estimate([0.0, 4.0]), estimate([7.0]), None]) == ((10 / 3) ** 0.5, 3)
    assert spread([estimate([7.0])]) is None


def test_each_comparison_is_counted_once(study):
    found = comparisons(study, 0.09)
    assert [(one.name, one.against) for one in found] == [("b", "a"), ("c", "b"), ("c", "")]
    assert found[0].adjusted == pytest.approx(3 * found[0].p)
    assert "makes 3 comparisons" in compared_seen(found)
    assert "calls a difference where intervals do not overlap: 2 of them" in compared_seen(found)
    assert "spreads over seeds by 1.00 points (standard deviation, pooled; 6 degrees" in power_seen(study, 0.09, 3)[1]


def test_the_front_is_that_of_brute_force():
    draw = random.Random(0)
    for _ in range(200):
        points = [(draw.randint(0, 6), draw.randint(0, 6)) for _ in range(draw.randint(1, 12))]
        wanted = []
        for cost, accuracy in points:
            beaten = any(other != (cost, accuracy) and other[0] <= cost and other[1] >= accuracy for other in points)
            wanted.append(not beaten)
        assert front(points) == wanted


def test_cells_on_a_front_are_named_with_it(study):
    both = "image tokens, GFLOPs an image"
    assert on_fronts(study, 0.09) == {
        "a": [f"accuracy by {both}", f"details up to 9% by {both}"],
        "b": [f"accuracy by {both}", f"details up to 9% by {both}"],
    }


def test_recall_on_small_details_is_that_of_their_sizes(study):
    assert study.cells[2].recall("probes", ["02%"]).mean == pytest.approx(0.275)
    assert study.cells[2].recall("probes", ["02%", "25%"]) is None
    assert study.cells[0].recall("probes", ["02%"]) is None
