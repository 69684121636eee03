"""The first ten minutes of a stranger, step by step as they would type them; `pytest -s` prints the steps."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import researcher
import student

pytest.importorskip("easy_vqa")


@pytest.mark.slow
@pytest.mark.parametrize("journey", [student, researcher], ids=lambda module: module.__name__)
def test_a_journey_ends_well(journey, tmp_path):
    journey.journey(tmp_path / "clone")
