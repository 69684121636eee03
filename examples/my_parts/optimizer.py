"""An optimizer of your own: Lion (arXiv 2302.06675), which moves every weight by the sign of its momentum.

    python ../train.py --config-dir conf optimizer=lion

`conf/optimizer/lion.yaml` names this class. `lr` and `weight_decay` come with the parameter groups of the stage.
"""

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """Sign of an interpolated momentum, with decoupled weight decay.

    Args:
        params: groups of parameters, each with its `lr` and `weight_decay`.
        lr: of groups that name none.
        betas: of the update, and of the momentum.
        weight_decay: of groups that name none.
    """

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Forward and backward are in `closure`; they need gradients, which `no_grad` has switched off."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:  # frozen in this step
                    continue
                state = self.state[weight]  # tensors in here go into checkpoints, and come back on a resume
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                update = state["momentum"].lerp(weight.grad, 1 - beta1).sign_()
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                state["momentum"].lerp_(weight.grad, 1 - beta2)
        return loss
