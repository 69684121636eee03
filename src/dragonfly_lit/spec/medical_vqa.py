"""Rules of medical data sets that training and scoring share, so that no question of a test split is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal


def vqa_rad_split(row: Mapping[str, Any]) -> Literal["train", "test"]:
    """The split of a question of VQA-RAD's one list: that of its `phrase_type`, such as `test_freeform` or `para`."""
    return "test" if str(row.get("phrase_type", "")).startswith("test") else "train"


def answer_type(answer: object, given: object = None) -> Literal["closed", "open"]:
    """What the data says of a question; where it does not say, closed means that the answer is yes or no."""
    kind = str(given or "").strip().lower()
    if kind == "closed" or kind == "open":
        return kind
    return "closed" if str(answer or "").strip().lower() in ("yes", "no") else "open"
