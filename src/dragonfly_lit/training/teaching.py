"""A teacher for the zoom rule: what each kept crop was worth to the answer, beside the loss of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.flops import Work
from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.models.zoom import Ranking
from dragonfly_lit.spec.records import Batch
from dragonfly_lit.training.objectives import Objective
from dragonfly_lit.training.teachers import Reading, Teacher


class Taught(Objective):
    """Cross-entropy of every supervised token, and beside it a lesson for the scores of the zoom rule.

    A teacher says of every kept crop of an image what it was worth to the answers (`training.teachers`). The lesson of
    an image is the cross-entropy of its scores against that, by softmax over the kept crops, and counts as the answers
    about the image count. Which crops are kept is the rule's, and `explore` of `models.find.Find` lets it try others,
    so that in time each crop is held against each; what was dropped is not read for it, so tokens stay as they are.
    Validation is without lessons.

    Args:
        teacher: what says it; one's own inherits from `training.teachers.Teacher`.
        weight: of the lesson beside the loss of the answers.
    """

    teaches = True

    def __init__(self, *, teacher: Teacher, weight: float | int = 1.0) -> None:
        if not isinstance(teacher, Teacher):
            raise ValueError(
                f"objective.teacher is a {type(teacher).__name__}. Let its class inherit from "
                "dragonfly_lit.training.teachers.Teacher."
            )
        if not weight > 0:
            raise ValueError(f"objective.weight={weight} must be above 0. For no lesson take objective=supervised.")
        self.teacher, self.weight = teacher, weight

    def check(self, model: Any) -> None:
        """Refuses a model whose zoom rule cannot learn.

        Args:
            model: the Dragonfly, frozen and thawed as the stage has it.

        Raises:
            ValueError: the rule has no weights, none of them trains, or nothing is selected.
        """
        rule = model.zoom
        if not model.layout.zoom.selects or rule.frozen or next(rule.parameters(), None) is None:
            raise ValueError(
                f"objective={type(self).__name__} teaches the zoom rule: {type(rule).__name__} has nothing to learn "
                "here. Take a rule with weights (zoom=find), match zoom.* with a group of the stage, or set "
                "objective=supervised."
            )

    def more_flops(self, config: DragonflyConfig, work: Work) -> int:
        """Those of the teacher."""
        return self.teacher.num_flops(config, work)

    def __call__(self, model: Any, batch: Batch, reference: Tensor | None) -> LossSums:
        inputs = {**batch.model_inputs(), "labels": batch.labels, "label_weights": batch.label_weights}
        if not torch.is_grad_enabled():
            return model.loss_sums(**inputs)
        with _watched(model) as seen:
            sums: LossSums = model.loss_sums(**inputs)
        ranking = seen.rankings[0]
        assert ranking.learnt is not None, "check has seen that the rule learns"
        # A rank without an image asks of none, since others wait for it; it has ranked a blank one.
        num_images = 0 if batch.pixel_values is None else len(batch.pixel_values)
        learnt, selected = ranking.learnt[:num_images], ranking.selected[:num_images]
        reading = Reading(
            model=model,
            batch=batch,
            sums=sums,
            embeddings=seen.embeddings[0],
            options=seen.options[0],
            slots=_kept_slots(model, batch, selected),
        )
        lessons = lesson(learnt, selected, self.teacher(reading).detach())
        counts = reading.by_image(batch.label_weights.flatten().index_select(0, sums.rows))
        total = (lessons * counts.to(lessons.dtype)).sum()
        return sums._replace(loss=sums.loss + self.weight * total, measures={"lesson": total.detach()})


def lesson(
    scores: Float[Tensor, "images high"], selected: Int[Tensor, "images kept"], worth: Float[Tensor, "images kept"]
) -> Float[Tensor, " images"]:
    """What each image's scores are from what its kept crops were worth: a cross-entropy over the kept crops.

    Args:
        scores: of all high crops, with a graph.
        selected: indices of the kept ones.
        worth: of each kept crop, not negative; where it is small throughout the image teaches little.
    """
    return -(scores.gather(1, selected).log_softmax(dim=-1) * worth).sum(dim=-1)


class _Seen(NamedTuple):
    rankings: list[Ranking]
    embeddings: list[Tensor]
    options: list[dict[str, Any]]


@contextmanager
def _watched(model: Any) -> Iterator[_Seen]:
    """What the rule ranks and what the language model is given, within."""
    seen = _Seen([], [], [])

    def ranked(_module: Any, _arguments: Any, ranking: Ranking) -> None:
        seen.rankings.append(ranking)

    def given(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        embeddings = options["inputs_embeds"]
        if not embeddings.requires_grad:
            embeddings.requires_grad_()  # of a stage that trains the rule alone: a teacher may ask for the slope there
        seen.embeddings.append(embeddings)
        seen.options.append({name: value for name, value in options.items() if name != "inputs_embeds"})

    hooks = [
        model.zoom.register_forward_hook(ranked),
        model.get_decoder().register_forward_pre_hook(given, with_kwargs=True),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _kept_slots(model: Any, batch: Batch, selected: Int[Tensor, "images kept"]) -> Int[Tensor, "images kept pooled"]:
    """Flat places of the tokens of each kept high crop; they are the last of an image."""
    (images, kept), per_crop = selected.shape, model.layout.pooled_per_crop
    slots = batch.outline.image_slots.view(images, model.layout.num_slots)
    return slots[:, -kept * per_crop :].unflatten(1, (kept, per_crop))
