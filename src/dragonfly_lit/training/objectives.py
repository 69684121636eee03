"""What a stage lowers: the next token of an answer, or the distance of a rejected answer to a chosen one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.flops import Work
from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.spec.records import Batch

PreferenceLoss = Literal["sigmoid", "ipo"]


class Objective(ABC):
    """From a batch to the two sums of a loss. One's own inherits from this class and is named by `objective._target_`.

    It holds no weights and keeps nothing from one batch to the next, so that a resumed run needs no state for it. A
    step divides the sum of all `loss` by the sum of all `weight`, over its micro-batches and ranks.
    """

    preferences = False
    """Whether each sample has a chosen and a rejected answer (branches 1 and 2 of the batch), or none has."""
    reference = False
    """Whether it is told what the model said before the stage's first step."""
    teaches = False
    """Whether it teaches the zoom rule beside the loss of the answers."""

    def check(self, model: Any) -> None:
        """Refuses a model that it cannot train; called once before the first step.

        Args:
            model: the Dragonfly, frozen and thawed as the stage has it.

        Raises:
            ValueError: its zoom rule trains and has no teacher.
        """
        rule = model.zoom
        if rule.pupil and not rule.frozen and not self.teaches:
            raise ValueError(
                f"zoom.selector={type(rule).__name__} learns from a teacher alone, and objective={type(self).__name__} "
                "has none. Set objective=taught, or zoom.selector._target_=dragonfly_lit.models.find.Find."
            )

    def more_flops(self, config: DragonflyConfig, work: Work) -> int:
        """Matmul FLOPs that it adds to a forward and backward of `work`; a reference's forward is counted elsewhere.

        Args:
            config: of the model.
            work: what the batch holds.
        """
        return 0

    @abstractmethod
    def __call__(self, model: Any, batch: Batch, reference: Tensor | None) -> LossSums:
        """The sums of a batch; called within the forward of the network, with gradients where it trains.

        Args:
            model: the Dragonfly. `model.token_losses(...)` gives the loss of every supervised token with a graph,
                `model.loss_sums(...)` their weighted sum, and a call of it logits.
            batch: on the device.
            reference: loss of every supervised token before the first step, in the order of `batch.outline.supervised`;
                None where `self.reference` is false.

        Returns:
            `loss` with a graph, `weight`, and `measures`: sums of whatever else is to be logged, by name, which are
            divided as the loss is; a batch may be without one. Its `token_losses` and `rows` are what `loss/SOURCE` is
            the mean of.
        """


def check_sums(found: object, objective: Objective, *, learns: bool) -> None:
    """Refuse what an objective gives where no step can be made of it; of shapes alone, so that no device is waited for.

    Args:
        found: what it gave for a batch.
        objective: that gave it.
        learns: whether backward is to come.

    Raises:
        ValueError: names the class and the field.
    """
    where = f"objective: {type(objective).__name__} gives"
    if not isinstance(found, LossSums):
        raise ValueError(f"{where} a {type(found).__name__}. Give a dragonfly_lit.models.loss.LossSums.")
    rows, sums = found.rows, {"loss": found.loss, "weight": found.weight, **found.measures}
    for name, value in {**sums, "token_losses": found.token_losses, "rows": rows}.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{where} {name}={value!r}. Give a tensor, not a Python {type(value).__name__}.")
    for name, value in sums.items():
        if value.dim():
            raise ValueError(f"{where} a {name} of shape {tuple(value.shape)}. Give one number, the sum: {name}.sum().")
    shapes = [tuple(each.shape) for each in (found.token_losses, rows)]
    if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
        raise ValueError(
            f"{where} token_losses of shape {shapes[0]} and rows of shape {shapes[1]}. Give one of each for a token."
        )
    if learns and not found.loss.requires_grad:
        raise ValueError(
            f"{where} a loss without a graph, so nothing would learn. Make it of model.token_losses(...), undetached."
        )


class Supervised(Objective):
    """Cross-entropy of every supervised token, weighted as `data.weighting` says."""

    def __call__(self, model: Any, batch: Batch, reference: Tensor | None) -> LossSums:
        return model.loss_sums(**batch.model_inputs(), labels=batch.labels, label_weights=batch.label_weights)


class Dpo(Objective):
    """Direct preference optimization: of two answers the chosen one gains on the rejected one, compared with the start.

    With d the gain of an answer's log-probability over the reference, and m = d(chosen) - d(rejected): `sigmoid` is
    -log sigmoid(beta m), ln 2 where nothing has changed (arXiv 2305.18290); `ipo` takes mean log-probabilities a token
    and is (m - 1 / (2 beta))^2 (arXiv 2310.12036).

    Args:
        beta: how dear it is to leave the reference.
        loss: `sigmoid` or `ipo`.
        label_smoothing: share of the pairs that are expected to be the wrong way round; of `sigmoid`.
    """

    preferences = True
    reference = True

    def __init__(
        self, *, beta: float | int = 0.1, loss: PreferenceLoss = "sigmoid", label_smoothing: float | int = 0.0
    ) -> None:
        if loss not in get_args(PreferenceLoss):
            raise ValueError(f"objective.loss={loss} is unknown. Use one of {', '.join(get_args(PreferenceLoss))}.")
        if not (math.isfinite(beta) and beta > 0):
            raise ValueError(f"objective.beta={beta} must be above 0.")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(
                f"objective.label_smoothing={label_smoothing} must be from 0 to below 0.5, where nothing is learnt."
            )
        if label_smoothing and loss != "sigmoid":
            raise ValueError(
                f"objective.label_smoothing={label_smoothing} has no effect with objective.loss={loss}. Set it to 0."
            )
        self.beta, self.loss, self.label_smoothing = beta, loss, label_smoothing

    def __call__(self, model: Any, batch: Batch, reference: Tensor | None) -> LossSums:
        tokens = model.token_losses(**batch.model_inputs(), labels=batch.labels)
        assert reference is not None, "an objective with a reference is given one"
        gains, lengths, rows = _by_answer(batch, tokens.rows, reference - tokens.token_losses)
        if self.loss == "ipo":
            gains = gains / lengths.clamp(min=1)
        chosen, rejected = gains
        margins = chosen - rejected
        losses = self.losses(margins)
        rewards = self.beta * torch.stack([chosen, margins]).detach()
        return LossSums(
            loss=losses.sum(),
            weight=losses.new_full((), losses.numel()),
            token_losses=losses.detach(),
            rows=rows,
            measures={
                "reward_chosen": rewards[0].sum(),
                "reward_margin": rewards[1].sum(),
                "reward_accuracy": (rewards[1] > 0).to(losses.dtype).sum(),
            },
        )

    def losses(self, margins: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """The loss of each pair.

        Args:
            margins: by how much the chosen answer has gained more than the rejected one.
        """
        if self.loss == "ipo":
            return (margins - 1 / (2 * self.beta)).square()
        right, wrong = F.logsigmoid(self.beta * margins), F.logsigmoid(-self.beta * margins)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong


def _by_answer(batch: Batch, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of values of supervised tokens, (2, samples), their numbers likewise, and where a label of each sample is.

    The host waits for nothing: it knows the samples by their keys.

    Args:
        batch: whose branches 1 and 2 are answers.
        rows: flat position of each token.
        values: of each token.
    """
    width, longest = batch.input_ids.shape[1], max(map(len, batch.keys))
    places = rows // width * longest + batch.sample_ids.flatten().index_select(0, rows)
    sides = batch.branch_ids.flatten().index_select(0, rows) - 1
    num_places = len(batch.keys) * longest
    zeros = values.new_zeros(2 * num_places)
    at = sides * num_places + places
    sums, lengths = (zeros.index_add(0, at, each).view(2, -1) for each in (values, torch.ones_like(values)))
    where = rows.new_zeros(num_places).scatter_reduce(0, places, rows, "amax")
    there = [n * longest + sample for n, row in enumerate(batch.keys) for sample in range(len(row))]
    if len(there) < num_places:
        kept = torch.tensor(there, device=rows.device, dtype=torch.long)
        sums, lengths, where = sums[:, kept], lengths[:, kept], where[kept]
    return sums, lengths, where
