"""What each key of the configuration may be: one table, asked before anything is built."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from dragonfly_lit.app.rules import (
    Rule,
    any_text,
    each,
    flag,
    mapping,
    null,
    number,
    numbers,
    one_of,
    refuse,
    text,
    texts,
    whole,
)

Config = dict[str, Any]
OWN = "dragonfly_lit."

share = number(0, 1)
count = whole(1)
duration = Rule(
    ("a time, DD:HH:MM:SS",), lambda value: isinstance(value, str) and bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value))
)
seed = whole(0, 2**32 - 1)


def _is_processes(value: Any) -> bool:
    known = int(value) if isinstance(value, str) and value.isdecimal() else value
    return value in ("auto", -1, "-1") or whole(1, 2**16).fits(known)


processes = Rule(
    (*whole(1, 2**16).alternatives, "auto, all that there are (CUDA_VISIBLE_DEVICES chooses among GPUs)"), _is_processes
)

steps = count | one_of("auto")
CHECKPOINTING = one_of("none", "selective", "full", "offload")
RECIPE = {
    "lr": number(above=0),
    "steps": steps,
    "samples": count | null,
    "batch_size": count | null,
    "accumulate": count,
    "warmup": number(0),
    "weight_decay": number(0),
}
SOURCE = {
    "weight": number(above=0) | null,
    "path": text | null,
    "split": one_of("train", "validation", "test") | null,
    "prompts": text | texts | null,
    "on_error": one_of("raise", "skip"),
    "questions": one_of("all", "one"),
    "temperature": number(above=0) | null,
}
BENCHMARK = {
    "limit": count | null,
    "show": count | null,
    "folder": text | null,
    "max_new_tokens": count,
    "circular": flag,
    "split": any_text | null,
    "instruction": text,
    "language": text,
    "subset": text,
    "part": text,
    "ocr": flag,
}

SHARED: dict[str, Rule] = {
    "about.title": text,
    "about.parts": texts,
    "runs_root": text,
    "data_root": text,
    "seed": seed,
    "trust": texts,
    **{f"benchmark.{key}": rule for key, rule in BENCHMARK.items()},
    **{f"benchmark.members.*.{key}": rule for key, rule in BENCHMARK.items()},
    "benchmark.name": text,
    "benchmark.manifest": any_text,
    "benchmark.images": text | null,
    "benchmark.columns": mapping | null,
    "benchmark.split_by": text | null,
    "benchmark.split_shares": numbers,
    "benchmark.frames": one_of("all", "middle") | whole(0) | null,
    "benchmark.window": numbers | null,
    "benchmark.metric": text | mapping,
    "prompt.name": text,
    "prompt.default.*": text | null,
    "prompt.templates": mapping,
}
TRAIN: dict[str, Rule] = {
    "name": text,
    "weights_root": text,
    "resume": text | null,
    "init_from": text | null,
    "vision.path": text,
    "vision.image_size": whole(1, 2**14) | null,
    "vision.feature_layer": whole(-1000, 1000),
    "vision.tower": mapping | null,
    "language.path": text,
    "language.tokenizer": text | null,
    "language.chat": text,
    "zoom.low": flag,
    "zoom.medium": flag,
    "zoom.high": flag,
    "zoom.medium_crops": whole(1, 2**12),
    "zoom.high_crops": whole(1, 2**12),
    "zoom.high_grid": one_of("best", "medium"),
    "zoom.top_k": count | null,
    "zoom.regions": one_of("spatial", "raster"),
    "zoom.score": one_of("pooled", "max", "question"),
    "zoom.learned": flag,
    "zoom.pool": count,
    "zoom.selector": mapping | null,
    "projector.hidden": count | null,
    "model.name": text,
    "model.released": text | null,
    "model.version": one_of("v1", "v2"),
    "model.dtype": one_of("float32", "bfloat16"),
    "model.attention": text,
    "model.resize": one_of("fast", "pillow"),
    "model.images": one_of("front", "in_place"),
    "model.max_tokens": count,
    "model.supervise": one_of("assistant", "all"),
    "model.too_long": one_of("cut", "refuse"),
    **{f"model.recipe.*.{key}": rule for key, rule in RECIPE.items()},
    "stage.name": text,
    "stage.steps": steps,
    "stage.samples": count | null,
    "stage.accumulate": count,
    "stage.schedule": text | mapping,
    "stage.warmup": number(0),
    "stage.decay": number(0),
    "stage.floor": share,
    "stage.clip": number(above=0) | null,
    "stage.optimizer": mapping,
    "stage.init_from": text | null,
    "stage.lora.rank": count,
    "stage.lora.alpha": number(above=0),
    "stage.lora.dropout": share,
    "stage.lora.target": texts,
    "stage.groups.*.match": text | texts,
    "stage.groups.*.lr": number(above=0),
    "stage.groups.*.weight_decay": number(0),
    "stage.groups.*.from_step": whole(0),
    "stage.groups.*.until_step": count | null,
    "stage.groups.*.optional": flag,
    "strategy.name": text,
    "strategy.device": text,
    "strategy.activation_checkpointing": CHECKPOINTING | each(CHECKPOINTING),
    "strategy.bucket_mb": number(1e-3, 1e6),
    "strategy.reshard": flag,
    "strategy.offload": flag,
    "strategy.replicate": whole(1, 2**16),
    "strategy.reduce": one_of("every", "last"),
    "trainer.precision": text,
    "trainer.gradients": one_of("float32", "bfloat16"),
    "trainer.compile": one_of("auto", "off", "blocks"),
    "trainer.log_every": count,
    "trainer.val_every": count | null,
    "trainer.accelerator": text,
    "trainer.devices": processes,
    "trainer.num_nodes": processes,
    "trainer.limit_train_batches": share | count | null,
    "trainer.limit_val_batches": share | count | null,
    "trainer.overfit_batches": share | count | null,
    "trainer.fast_dev_run": flag | count | null,
    "trainer.max_time": duration | mapping | null,
    "trainer.min_steps": count | null,
    "trainer.deterministic": flag | one_of("warn") | null,
    "trainer.benchmark": flag | null,
    "trainer.detect_anomaly": flag,
    "trainer.profiler": text | mapping | null,
    "trainer.inference_mode": flag,
    "trainer.num_sanity_val_steps": whole(-1),
    "trainer.sync_batchnorm": flag,
    "trainer.reload_dataloaders_every_n_epochs": whole(0),
    "trainer.enable_model_summary": flag,
    "callbacks.checkpoints.every": count,
    "callbacks.checkpoints.keep_last": count,
    "callbacks.checkpoints.keep_every": count | null,
    "callbacks.checkpoints.background": flag,
    "callbacks.checkpoints.trainable_only": flag,
    "callbacks.bad_steps.stop_after": count,
    "callbacks.bad_steps.spike": number(above=1) | null,
    "callbacks.bad_steps.window": whole(1, 10**6),
    "callbacks.telemetry.every": count,
    "callbacks.progress": flag,
    "callbacks.sample_log": text | null,
    "callbacks.answers.every": count | null,
    "callbacks.answers.count": whole(1, 1000),
    "callbacks.memory_snapshot.first": whole(0),
    "callbacks.memory_snapshot.steps": count,
    "callbacks.memory_snapshot.entries": count,
    "callbacks.ema.decay": share,
    "callbacks.ema.update_every_n_steps": count,
    "callbacks.ema.update_starting_at_step": whole(0) | null,
    "data.path": text,
    "data.prepare": mapping | null,
    **{f"data.train.**{key}": rule for key, rule in SOURCE.items()},
    **{f"data.val.**{key}": rule for key, rule in SOURCE.items()},
    "data.val.batch_size": count,
    "data.batch.mode": one_of("padded", "grouped", "packed"),
    "data.batch.size": count | null,
    "data.batch.max_tokens": count | null,
    "data.batch.max_crops": count | null,
    "data.batch.buffer": count | null,
    "data.batch.pad_to": count | null,
    "data.batch.balance": one_of("tokens", "flops") | null,
    "data.epoch.steps": count | null,
    "data.epoch.samples": count | null,
    "data.epoch.passes": number(above=0) | null,
    "data.num_workers": whole(0, 1024) | null,
    "data.seed": seed,
    "data.num_streams": whole(1, 2**20) | null,
    "data.block": count,
    "data.window": count,
    "data.weighting": one_of("token", "sample", "sqrt"),
    "data.max_pixels": count | null,
    "data.max_member_mb": number(above=0),
    "data.max_skip_rate": share,
    "data.max_skip_run": whole(0),
    "data.quarantine": text | null,
    "data.on_mismatch": one_of("raise", "restart"),
    "data.cache_dir": text | null,
    "data.cache_gb": number(above=0),
    "data.pin_memory": flag,
}
EVALUATE: dict[str, Rule] = {
    "checkpoint": text,
    "version": one_of("v1", "v2") | null,
    "vision_config": text | null,
    "predictions": text | null,
    "out": text | null,
    "device": text,
    "dtype": one_of("float32", "bfloat16") | null,
    "batch_tokens": count,
    "decoding": one_of("auto", "dynamic", "static", "compiled"),
    "max_new_tokens": count | null,
    "temperature": number(0),
    "sampling.n": whole(1, 1000),
    "sampling.temperature": number(above=0),
    "scoring": one_of("generation", "loglikelihood"),
    "likelihood.of": one_of("letter", "text"),
    "likelihood.length": one_of("tokens", "characters", "none"),
    "shots": whole(0, 1000),
    "shots_split": text | null,
    "shots_seed": seed,
    "perturb.kind": one_of("jpeg", "downscale", "crop") | null,
    "perturb.strengths": numbers | null,
    "caption_metrics": one_of("python", "java"),
    "bertscore.model": text | null,
    "bertscore.layer": count | null,
    "resamples": whole(1, 10**6),
    "gallery": whole(0, 10**4),
    "predict": flag,
    "judge.scores_file": text | null,
    "judge.base_url": text | null,
    "judge.model": text | null,
    "judge.template": text | null,
    "judge.key_variable": text,
    "judge.retries": whole(0, 100),
    "judge.timeout_s": number(1e-3, 86400),
    "judge.parallel": whole(1, 256),
}
RULES = {"train": SHARED | TRAIN, "evaluate": SHARED | EVALUATE}
"""By configuration and key; in a key `*` stands for one name, and `**` for mixes within mixes, `sources.NAME.` each."""
MAY_BE_NULL = (
    "benchmark", "callbacks.answers", "callbacks.ema", "callbacks.memory_snapshot", "data.batch",
    "data.epoch", "data.val", "projector", "stage.lora",
)  # fmt: skip
"""Nodes that are left out by null; every other one is a mapping."""


def rule_of(config: str, key: str) -> Rule | None:
    """The rule of a key of `train` or `evaluate`; None where there is none, as for a part of the user's own."""
    place = _place_of(config, key)
    return None if place is None else _compiled(config)[place][1]


def check_values(config: Config, name: str) -> None:
    """Refuse a value that its key cannot have; a whole number written as 1e3 becomes one, in place.

    The keys of a part of the user's own (below a `_target_` that is not this project's) are left to the part.

    Args:
        config: resolved.
        name: `train` or `evaluate`.

    Raises:
        ValueError: names the key, the value and what is wanted.
    """
    for node in dict.fromkeys(parent for key in RULES[name] for parent in _parents(key)):
        value = _find(config, node.split("."))
        if value is not _MISSING and not (isinstance(value, Mapping) or (value is None and node in MAY_BE_NULL)):
            if node != "stage.groups":
                refuse(node, value, mapping)
            elif not (isinstance(value, list) and all(isinstance(item, Mapping) for item in value)):
                refuse(node, value, Rule(("a list of groups, [{match: ..., lr: ...}]",), bool))
    found = [(place, key, where) for key, where in leaves(config, name) if (place := _place_of(name, key)) is not None]
    # In the table's order: a key comes before those that take its value.
    for place, key, (holder, last) in sorted(found, key=lambda entry: entry[:2]):
        rule = _compiled(name)[place][1]
        if not rule.fits(holder[last]):
            refuse(key, holder[last], rule)
        if isinstance(holder[last], float) and rule.alternatives[0].startswith("a whole number"):
            holder[last] = int(holder[last])


def leaves(node: Any, config: str, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Every key with a rule or without keys below it, with where its value is held.

    Args:
        node: plain.
        config: `train` or `evaluate`.
        prefix: the node's own key and a dot.
    """
    if isinstance(node, dict) and not str(node.get("_target_", OWN)).startswith(OWN):
        return  # a part of somebody else's
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in items:
        key = f"{prefix}{name}"
        has_keys = value and isinstance(value[0] if isinstance(value, list) else value, dict)
        if has_keys and rule_of(config, key) is None:
            yield from leaves(value, config, f"{key}.")
        elif name != "_target_":
            yield key, (node, name)


@cache
def _place_of(config: str, key: str) -> int | None:
    return next((n for n, (pattern, _) in enumerate(_compiled(config)) if pattern.fullmatch(key)), None)


@cache
def _compiled(config: str) -> list[tuple[re.Pattern[str], Rule]]:
    def compiled(pattern: str) -> re.Pattern[str]:
        text = re.escape(pattern).replace(r"\*\*", r"(?:sources\.[^.]+\.)*").replace(r"\*", r"[^.]+")
        return re.compile(text)

    return [(compiled(pattern), rule) for pattern, rule in RULES[config].items()]


def _parents(pattern: str) -> Iterator[str]:
    """The nodes above a key, as far as they have names: `data` and `data.train` of `data.train.**path`."""
    names = pattern.split("*")[0].rstrip(".").split(".")
    upper = names if "*" in pattern else names[:-1]
    for length in range(1, len(upper) + 1):
        yield ".".join(upper[:length])


_MISSING = object()


def _find(node: Any, names: list[str]) -> Any:
    for name in names:
        if not isinstance(node, Mapping) or name not in node:
            return _MISSING
        node = node[name]
    return node
