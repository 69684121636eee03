"""The metrics that a set of one's own may be scored with, by name, and a class of one's own beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from dragonfly_lit.evaluation.metrics.base import QuestionMetric, Score
from dragonfly_lit.evaluation.metrics.caption import Captions
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.metrics.medical import MedicalVQA
from dragonfly_lit.evaluation.metrics.short import ANLS, ExactMatch, RelaxedAccuracy
from dragonfly_lit.evaluation.metrics.vqa import VQAAccuracy
from dragonfly_lit.evaluation.metrics.yes_no import POPE
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.io.imports import locate

MetricFactory = Callable[[Sequence[Question]], QuestionMetric]


class ExactMatchAnyCase(ExactMatch):
    """The same where gold answers may have capitals and full stops: GQA's, whose rule it is, have none."""

    def score(self, prediction: str, question: Question) -> Score:
        """1 if any accepted answer matches."""
        plain = tuple(answer.strip().rstrip(".").lower() for answer in question.references)
        return super().score(prediction, replace(question, references=plain))


METRICS: Mapping[str, type[QuestionMetric]] = {
    "exact_match": ExactMatchAnyCase,
    "vqa_accuracy": VQAAccuracy,
    "relaxed_accuracy": RelaxedAccuracy,
    "anls": ANLS,
    "multiple_choice": MultipleChoice,
    "yes_no": POPE,
    "medical_vqa": MedicalVQA,
    "captions": Captions,
}


def metric_of(metric: str | MetricFactory) -> tuple[MetricFactory, str]:
    """What makes a metric, and how it is called in the results.

    Args:
        metric: one of `METRICS`, or a class of your own as `module.Class`, or such a class with arguments given.

    Raises:
        ValueError: there is no such metric.
    """
    if not isinstance(metric, str):
        return metric, class_of(metric).__name__
    if "." in metric:  # the user's own configuration names it, so its module may be imported
        return locate(metric, where="benchmark.metric", trusted=[metric], base=QuestionMetric), metric
    if metric in METRICS:
        return METRICS[metric], metric
    raise ValueError(
        f"benchmark.metric={metric!r}: use one of {', '.join(METRICS)}, or a class of your own, module.Class."
    )


def class_of(make: MetricFactory) -> type[QuestionMetric]:
    """The class that a metric is made of.

    Raises:
        ValueError: it is not a class of metric.
    """
    found = make.func if isinstance(make, partial) else make
    if not (isinstance(found, type) and issubclass(found, QuestionMetric)):
        raise ValueError(f"benchmark.metric: {found!r} is not a subclass of QuestionMetric. Derive it from it.")
    return found
