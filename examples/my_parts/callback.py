"""A callback of your own: it stops a run whose gradient has died, and logs how large the gradient was at most.

python ../train.py +callbacks.alive._target_=my_parts.callback.StopIfDead +callbacks.alive.patience=50
"""

from lightning.pytorch import Callback


class StopIfDead(Callback):
    """Ends the run, saved, when the norm of the gradient stays below `least` for `patience` optimizer steps.

    Args:
        least: norm of all gradients together.
        patience: optimizer steps.
    """

    def __init__(self, least=1e-6, patience=50):
        self.least, self.patience = least, patience
        self.dead = 0
        self.largest = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        report = pl_module.report  # of the last optimizer step: loss, lr, grad_norm, grad_norms, skipped
        if report is None or trainer.fit_loop._should_accumulate():
            return
        self.largest = max(self.largest, report.grad_norm)
        self.dead = self.dead + 1 if report.grad_norm < self.least else 0
        for logger in trainer.loggers:
            logger.log_metrics({"largest_grad_norm": self.largest}, step=trainer.global_step)
        if self.dead >= self.patience:
            trainer.should_stop = True  # the step that ends here is saved

    def state_dict(self):
        """What a checkpoint keeps: plain numbers, texts, tensors, lists and dicts."""
        return {"dead": self.dead, "largest": self.largest}

    def load_state_dict(self, state_dict):
        self.dead, self.largest = state_dict["dead"], state_dict["largest"]
