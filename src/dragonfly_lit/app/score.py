"""The trained model scored at the end of its run, where the configuration names a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from dragonfly_lit.app.build import Config, make
from dragonfly_lit.app.made import how_made
from dragonfly_lit.evaluation.folders import other_answers, results_name
from dragonfly_lit.evaluation.runner import run as run_benchmarks
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import Trained, Work, step_flops
from dragonfly_lit.processing.processor import DragonflyProcessor


def score(
    config: Config,
    run: Path,
    model: DragonflyForConditionalGeneration,
    processor: DragonflyProcessor,
    device: torch.device | str,
) -> dict[str, Any]:
    """What the result of a run holds of its model: cost of an image, and each benchmark's scores with intervals.

    Answers and the report lie in a folder of `run/evaluation`, as `evaluate.py` would leave them.
    """
    benchmark = make(config["benchmark"])
    settings = Settings(
        prompts=make(config["prompt"]),
        data_root=config["data_root"],
        seed=config["seed"],
        progress=config["callbacks"]["progress"],
        made=how_made(run),
    )
    whole: Any = model  # transformers wraps `to` in a way that pyright cannot see through
    moved = whole.to(device)
    root = run / "evaluation"
    out = root / results_name(benchmark, settings)
    members = benchmark.benchmarks
    results = run_benchmarks(
        members, model=moved, processor=processor, out=out, settings=settings, beside=other_answers(root)
    )
    if getattr(rank_zero_only, "rank", 0) != 0:
        return {}
    kept = ("headline", "scale", "num_questions", "limited", "scores", "intervals", "groups", "selection", "answers")
    scored: dict[str, dict[str, Any]] = {}
    for one in members:
        entry = results["benchmarks"][one.name]
        scored[one.name] = {key: entry[key] for key in kept} | {
            "folder": str(out.relative_to(run)),
            "answers_per_s": results["times"]["benchmarks"][one.name]["per_second"],
        }
    return {**image_cost(model), "benchmarks": scored}


def num_scored(config: Config) -> int:
    """Images of the benchmark that the run ends with, each encoded once for all its questions; 0 where there is none.

    Raises:
        ValueError: its data are missing or damaged, which nobody should learn after hours of training.
    """
    if not config.get("benchmark"):
        return 0
    members = make(config["benchmark"]).benchmarks
    return sum(len({one.image_keys for one in member.questions(config["data_root"])}) for member in members)


def image_cost(model: DragonflyForConditionalGeneration) -> dict[str, int | float]:
    """Tokens that an image takes, pixels along a crop's side, and GFLOPs of encoding and reading the image."""
    tokens = model.layout.num_tokens
    work = Work(images=1, tokens=tokens, pairs=tokens * (tokens + 1) // 2, supervised=0)
    trained = Trained(vision=False, projector=False, language=False)
    flops = step_flops(model.config, work, trained, model.projector)
    gflops = sum(flops.values()) / 1e9
    return {"image_tokens": tokens, "crop_pixels": model.layout.image_size, "image_gflops": gflops}
