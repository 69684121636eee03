"""Keys of Lightning or of an earlier version, and what to use. Nothing is imported: a mistyped key is told at once."""

from __future__ import annotations

REFUSED = {
    "gradient_clip_val": "gradients are clipped over all groups and ranks at once. Use stage.clip",
    "gradient_clip_algorithm": "gradients are clipped by their norm. Use stage.clip",
    "accumulate_grad_batches": "the loss of a step is divided once, by all its tokens. Use stage.accumulate",
    "max_steps": "the schedule depends on it. Use stage.steps",
    "max_epochs": "a stage is counted in optimizer steps. Use stage.steps",
    "strategy": "strategies are a group of their own. Use strategy=single, strategy=ddp or strategy=fsdp",
    "logger": "loggers are a group of their own. Use +logger.NAME._target_=CLASS",
    "callbacks": "callbacks are a group of their own. Use +callbacks.NAME._target_=CLASS",
    "use_distributed_sampler": "the data are dealt out to ranks by their own order. Leave it out",
    "val_check_interval": "validation is counted in optimizer steps. Use trainer.val_every",
    "check_val_every_n_epoch": "validation is counted in optimizer steps. Use trainer.val_every",
    "log_every_n_steps": "use trainer.log_every",
    "enable_checkpointing": "checkpoints are a callback. Use callbacks.checkpoints",
    "enable_progress_bar": "use callbacks.progress",
    "default_root_dir": "a run lies in runs_root/name. Use runs_root and name",
    "barebones": "it leaves out loggers, callbacks and checkpoints. Use trainer.fast_dev_run",
}
"""Flags of Lightning that are set by other keys: why, and which."""

MOVED = {"betas": "stage.optimizer.betas", "eps": "stage.optimizer.eps"}
"""Keys that a stage file of an earlier version may have, and where they are now."""

OF_EARLIER = {
    **{f"stage.{key}": f"it has moved to {place}" for key, place in MOVED.items()},
    **{f"trainer.{key}": reason for key, reason in REFUSED.items()},
    "logger.kinds": "loggers have names now. Use logger=csv, wandb or tensorboard",
}
"""All of them by their whole key, as an error answers it."""
