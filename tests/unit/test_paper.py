"""What was not run on a GPU is estimated by a rule that holds for what was, and the documents have its numbers."""

from pathlib import Path

import pytest

from benchmarks.gpu import paper

PAGE = Path(__file__).parents[2] / "docs/performance.md"


@pytest.fixture(scope="module")
def found():
    return {row.name: entry for row, entry in zip(paper.ROWS, paper.estimate(), strict=True)}


def test_no_measured_step_is_below_its_floor_and_none_far_above(found):
    measured = [entry for entry in found.values() if entry["measured"]]
    assert len(measured) == 3
    for entry in measured:
        kinds = entry["measured"]["profile"]["by_kind_s"]
        assert 1 < entry["measured"]["s_a_step"] / entry["floor"] < 1.5
        assert entry["products"] == pytest.approx(kinds["matmul"], rel=0.08)
        assert entry["attention"] == pytest.approx(kinds["attention"], rel=0.2)
        assert entry["mfu"][0] == pytest.approx(entry["measured"]["mfu"], rel=0.01)


def test_what_the_optimizer_moves_is_the_time_of_its_kernels(found):
    assert found["v1, stage 1"]["weights"] < 1e-3
    kinds = found["1B, stage 2"]["measured"]["profile"]["by_kind_s"]
    assert kinds["optimizer"] < found["1B, stage 2"]["weights"] < kinds["optimizer"] + kinds["copy and cast"]


def test_computing_again_takes_time_and_saves_memory(found):
    none, selective, full = (found[f"a quarter of 8B, stage 2, FSDP, {m}"] for m in ("none", "selective", "full"))
    assert none["floor"] < selective["floor"] < full["floor"]
    assert none["gb"] > selective["gb"] > full["gb"]


def test_the_documents_have_its_table(found):
    assert paper.table(list(found.values())) in PAGE.read_text()
