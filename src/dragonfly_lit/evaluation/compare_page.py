"""Two runs side by side on the same questions, as one page: wins, losses and ties, with the crops of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.answers import Answer
from dragonfly_lit.evaluation.html import MAX_ANSWERS, MAX_IMAGE_BYTES, data_of, filled

OUTCOMES = ("win", "loss", "tie")
"""Of the second run."""


def page(compared: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> str:
    """The whole page.

    Args:
        compared: what `compare` found of two runs.
        pairs: of `pairs_of`, for each benchmark.
        folders: of the two runs, whose reports hold the images.
    """
    shown = sorted(pairs, key=lambda pair: OUTCOMES.index(pair["outcome"]))[:MAX_ANSWERS]
    images, size = {}, 0
    for name, image in [item for folder in folders for item in _images(folder).items()]:
        if name not in images and size + len(image["uri"]) <= MAX_IMAGE_BYTES:
            images[name], size = image, size + len(image["uri"])
    # Questions whose image is here come first: there is more to see.
    shown.sort(key=lambda pair: not any(name in images for name in pair["images"]))
    data = {"compared": dict(compared), "pairs": shown, "images": images, "num_left_out": len(pairs) - len(shown)}
    return filled("compare_page.html", data)


def pairs_of(benchmark: str, first: Sequence[Answer], second: Sequence[Answer]) -> list[dict[str, Any]]:
    """The questions that both runs answered, with both answers; an outcome is that of the second run."""
    known = {answer.id: answer for answer in first if answer.score is not None}
    return [
        _pair(benchmark, known[answer.id], answer)
        for answer in second
        if answer.id in known and answer.score is not None
    ]


def _pair(benchmark: str, one: Answer, other: Answer) -> dict[str, Any]:
    change = (other.score or 0.0) - (one.score or 0.0)
    return {
        "benchmark": benchmark,
        "id": other.id,
        "question": other.question or other.prompt,
        "category": " · ".join(filter(None, (other.category, other.split))),
        "choices": other.choices,
        "accepted": list(dict.fromkeys(other.references)),
        "outcome": "win" if change > 0 else "loss" if change < 0 else "tie",
        "images": other.images,
        "answers": [{"output": each.output, "score": each.score, "zoom": each.zoom} for each in (one, other)],
    }


def _images(folder: Path) -> dict[str, dict[str, Any]]:
    """The images in the report of a run; none where it is gone."""
    report = folder / "report.html"
    try:
        return data_of(report.read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError):
        return {}
