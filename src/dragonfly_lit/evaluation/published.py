"""Rows of published tables, each verified in the text of its source; nothing here is from memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One number of a published table.

    Attributes:
        task: our name of the benchmark.
        metric: the key of our metric that it is shown beside; `note` says where the source leaves its own rule open.
        model: the row's model.
        value: in the source's units, percent unless the metric is in points.
        source: where the number was read.
        note: what keeps it from being comparable digit by digit.
    """

    task: str
    metric: str
    model: str
    value: float
    source: str
    note: str = ""


BLOG = "together.ai/blog/dragonfly-v1, 2024-06-06"
ABSTRACT = "arXiv 2406.00977v2, abstract"
GENERAL = ("ai2d", "scienceqa", "mmmu", "mm_vet", "pope")
GENERAL_METRICS = {"mm_vet": "score", "pope": "f1"}
GENERAL_NOTES = {"pope": "the source does not name its metric; F1 is inferred"}
GENERAL_ROWS: Mapping[str, tuple[float | None, ...]] = {
    "VILA": (None, 68.2, 34.9, None, 85.5),
    "LLaVA-v1.5 (Vicuna-7B)": (54.8, 70.4, 35.3, 30.5, 85.9),
    "LLaVA-v1.6 (Mistral-7B)": (60.8, 72.8, 33.4, 44.8, 86.7),
    "Qwen-VL-chat": (52.3, 68.2, 35.9, None, None),
    "Dragonfly v1 (Llama-3-8B)": (63.6, 80.5, 37.8, 35.9, 91.2),
}
MEDICAL_MODELS = ("LLaVA-Med", "Med-Gemini", "best published before", "Dragonfly-Med v1")
MEDICAL_NOTES = {
    "closed_accuracy_llava_med": "the source does not say how a closed answer is read",
    "open_f1_squad": "the source does not publish the normalisation of its token F1",
}
MEDICAL_ROWS: Mapping[tuple[str, str], tuple[float | None, ...]] = {
    ("vqa_rad", "closed_accuracy_llava_med"): (84.2, 69.7, 87.1, 77.4),
    ("vqa_rad", "open_f1_squad"): (None, 50.1, 62.1, 59.6),
    ("slake", "closed_accuracy_llava_med"): (83.2, 84.8, 91.6, 90.4),
    ("slake", "open_f1_squad"): (None, 75.8, 89.3, 88.8),
    ("path_vqa", "closed_accuracy_llava_med"): (91.7, 83.3, 91.7, 92.3),
    ("path_vqa", "open_f1_squad"): (None, 58.7, 62.7, 67.6),
}
CAPTION_MODELS = ("BiomedGPT", "best published before", "Dragonfly-Med v1")
CAPTION_METRICS = ("rouge_l", "meteor_nltk", "cider_d")
CAPTION_NOTES = {"meteor_nltk": "the source does not say which METEOR it computed"}
CAPTION_ROWS: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "iu_xray": ((28.5, 12.9, 40.1), (44.8, 24.2, 43.5), (28.5, 29.7, 58.8)),
    "peir_gross": ((36.0, 15.4, 122.7), (36.0, 15.4, 122.7), (40.3, 38.3, 179.9)),
    "roco": ((18.2, 7.8, 24.2), (18.2, 7.8, 24.2), (19.3, 15.1, 40.1)),
    "mimic_cxr": ((23.8, 14.2, 14.7), (33.5, 19.0, 50.9), (24.2, 22.6, 47.2)),
}
SECOND_VERSION = (("slake", "closed_accuracy_llava_med", 91.6), ("path_vqa", "open_f1_squad", 67.1))


def _rows() -> Iterator[PublishedRow]:
    for model, values in GENERAL_ROWS.items():
        for task, value in zip(GENERAL, values, strict=True):
            if value is not None:
                metric, note = GENERAL_METRICS.get(task, "accuracy"), GENERAL_NOTES.get(task, "")
                yield PublishedRow(task=task, metric=metric, model=model, value=value, source=BLOG, note=note)
    for (task, metric), numbers in MEDICAL_ROWS.items():
        for model, value in zip(MEDICAL_MODELS, numbers, strict=True):
            if value is not None:
                note = MEDICAL_NOTES[metric]
                yield PublishedRow(task=task, metric=metric, model=model, value=value, source=BLOG, note=note)
    for task, metric, value in SECOND_VERSION:
        yield PublishedRow(
            task=task, metric=metric, model="Dragonfly-Med v2", value=value, source=ABSTRACT, note=MEDICAL_NOTES[metric]
        )
    for task, models in CAPTION_ROWS.items():
        for model, triple in zip(CAPTION_MODELS, models, strict=True):
            for metric, value in zip(CAPTION_METRICS, triple, strict=True):
                note = CAPTION_NOTES.get(metric, "")
                yield PublishedRow(task=task, metric=metric, model=model, value=value, source=BLOG, note=note)


ROWS = tuple(_rows())


def rows_of(task: str) -> tuple[PublishedRow, ...]:
    """The published rows of one benchmark."""
    return tuple(row for row in ROWS if row.task == task)
