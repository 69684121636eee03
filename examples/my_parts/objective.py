"""An objective of your own, focal loss: tokens that the model knows already count less, so that it works on the others.

python ../train.py --config-dir conf objective=focal objective.gamma=1.0
"""

from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.training.objectives import Objective


class Focal(Objective):
    """The loss of each token, times (1 - p)^gamma, where p is the probability that the model gives it.

    Args:
        gamma: 0 is the supervised objective; the larger, the less easy tokens count.
    """

    # An objective that learns from a chosen and a rejected answer says `preferences = True`; one that is to be told
    # what the model said before the first step says `reference = True` and gets those losses as `reference`.

    def __init__(self, *, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def __call__(self, model, batch, reference) -> LossSums:
        """What a step adds up over its micro-batches and ranks: a loss, and the weight that it is divided by."""
        tokens = model.token_losses(**batch.model_inputs(), labels=batch.labels)
        hard = (1 - (-tokens.token_losses).exp()) ** self.gamma
        losses = hard * tokens.token_losses
        return LossSums(
            loss=losses.sum(),
            weight=tokens.weight,
            token_losses=losses.detach(),  # for loss/SOURCE
            rows=tokens.rows,
            measures={"hardness": hard.detach().sum()},  # logged as their mean, beside the loss
        )
