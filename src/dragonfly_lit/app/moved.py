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

_TO_TRAIN = {
    **dict.fromkeys(
        ("lr", "learning_rate", "learning_rates"), "every group of a stage has one. Use stage.groups.0.lr=N"
    ),
    **dict.fromkeys(("wd", "weight_decay"), "every group of a stage has one. Use stage.groups.0.weight_decay=N"),
    **dict.fromkeys(
        ("epochs", "max_epochs", "num_epochs", "num_train_epochs"),
        "a stage is counted in optimizer steps. Use stage.steps=STEPS",
    ),
    **dict.fromkeys(
        ("steps", "max_steps", "num_steps", "iterations"), "a stage is counted in optimizer steps. Use stage.steps=N"
    ),
    **dict.fromkeys(
        ("batch", "batch_size", "batchsize", "bs", "micro_batch_size", "per_device_train_batch_size"),
        "samples of a micro-batch are data.batch.size=N; packed rows are filled up to data.batch.max_tokens=TOKENS",
    ),
    **dict.fromkeys(
        ("accumulate", "accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum"),
        "micro-batches of a step are stage.accumulate=N",
    ),
    **dict.fromkeys(("warmup", "warmup_steps", "warmup_ratio"), "use stage.warmup=N, or a share of the steps below 1"),
    **dict.fromkeys(
        ("gpus", "num_gpus", "devices", "ngpus"), "use trainer=gpu, and trainer.devices=N with strategy=ddp or fsdp"
    ),
    **dict.fromkeys(("num_nodes", "nodes"), "use trainer.num_nodes=N"),
    **dict.fromkeys(("precision", "fp16", "bf16", "amp"), "use trainer.precision=fp32, bf16 or fp8"),
    **dict.fromkeys(("num_workers", "workers", "dataloader_num_workers"), "use data.num_workers=N"),
    **dict.fromkeys(("dataset", "data_path", "datasets"), "use data=NAME, or data=mine data.path=FOLDER"),
    **dict.fromkeys(
        ("resume_from_checkpoint", "ckpt_path", "ckpt", "checkpoint"), "use resume=auto or PATH, or init_from=PATH"
    ),
    **dict.fromkeys(("output_dir", "out_dir", "out", "save_dir"), "a run lies in runs_root/name. Use these two"),
    **dict.fromkeys(("clip", "gradient_clip_val", "max_grad_norm", "grad_clip"), "use stage.clip=NORM"),
    **dict.fromkeys(("max_length", "max_seq_length", "model_max_length"), "use model.max_tokens=N"),
    **dict.fromkeys(
        ("llm", "lm", "language_model", "model_name_or_path", "base_model"),
        "the language model is a group of its own. Use language=NAME, or language.path=FOLDER",
    ),
    **dict.fromkeys(
        ("vision_tower", "vision_model", "image_encoder", "encoder", "tower"),
        "the tower is a group of its own. Use vision=NAME, or vision.path=FOLDER",
    ),
    **dict.fromkeys(("run_name", "experiment_name", "exp_name"), "use name=NAME"),
}
_TO_EVALUATE = {
    **dict.fromkeys(("batch", "batch_size", "bs"), "a batch is counted in tokens. Use batch_tokens=TOKENS"),
    **dict.fromkeys(("task", "tasks", "dataset", "datasets", "eval_dataset"), "use benchmark=NAME"),
    **dict.fromkeys(
        ("ckpt", "ckpt_path", "checkpoint_path", "model_path", "model_name_or_path"),
        "use checkpoint=PATH, or checkpoint=auto for the newest of all runs",
    ),
    **dict.fromkeys(("output_dir", "out_dir", "output", "save_dir"), "use out=FOLDER"),
    **dict.fromkeys(("limit", "num_samples", "max_samples"), "use benchmark.limit=N"),
    **dict.fromkeys(("split",), "use benchmark.split=NAME"),
    **dict.fromkeys(("num_fewshot", "few_shot", "fewshot"), "use shots=N"),
    **dict.fromkeys(("precision", "bf16", "fp16"), "use dtype=float32 or bfloat16"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "bits"), "use quantize=nf4 or int8"),
    **dict.fromkeys(
        ("gpu", "gpus", "num_gpus", "devices"), "use device=cuda; torchrun --nproc-per-node N evaluate.py takes several"
    ),
}
USUAL = {"train": _TO_TRAIN, "evaluate": _TO_EVALUATE}
"""What people type who know other programs, by the last name of the key, and what it is here.

N is what they gave; what is counted in something else has another word in its place.
"""
