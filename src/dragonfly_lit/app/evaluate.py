"""What `python evaluate.py` does: find the model, generate, score, report; or score a file of answers alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dragonfly_lit.app.build import Config, make, plain
from dragonfly_lit.app.device import usable_device
from dragonfly_lit.app.known_warnings import silence_known_warnings
from dragonfly_lit.app.made import how_made
from dragonfly_lit.app.values import check_values
from dragonfly_lit.evaluation import robustness
from dragonfly_lit.evaluation.folders import other_answers, results_name
from dragonfly_lit.evaluation.metrics.base import Scoring, check_scoring
from dragonfly_lit.evaluation.perturb import STRENGTHS, Perturbation
from dragonfly_lit.evaluation.report import table
from dragonfly_lit.evaluation.runner import run, score_predictions
from dragonfly_lit.evaluation.settings import Settings
from dragonfly_lit.evaluation.show import show
from dragonfly_lit.evaluation.submission import check_servers
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.io.later import import_quickly
from dragonfly_lit.io.machine import usable_cpus

SETTINGS = (
    "data_root", "batch_tokens", "decoding", "max_new_tokens", "seed", "resamples", "gallery", "predict",
    "scoring", "shots", "shots_split", "shots_seed",
)  # fmt: skip
"""Keys of the configuration that are settings of the same name."""


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """The results that were also written to `out`; none where questions are only shown."""
    return evaluate_config(plain(cfg))


def evaluate_config(config: Config) -> dict[str, Any]:
    """The same for a resolved configuration."""
    silence_known_warnings()
    check_values(config, "evaluate")
    benchmark = make(config["benchmark"])
    draws = config["sampling"]["n"]
    settings = Settings(
        prompts=make(config["prompt"]),
        judge=make(config["judge"]),
        draws=draws,
        temperature=config["sampling"]["temperature"] if draws > 1 else config["temperature"],
        likelihood_of=config["likelihood"]["of"],
        likelihood_length=config["likelihood"]["length"],
        metrics=Scoring(
            caption_metrics=config["caption_metrics"],
            bertscore_model=config["bertscore"]["model"],
            bertscore_layer=config["bertscore"]["layer"],
            bertscore_device=_device(config["device"]) if config["bertscore"]["model"] else "cpu",
        ),
        **{key: config[key] for key in SETTINGS},
    )
    check_scoring([one.metric_type for one in benchmark.benchmarks], settings.metrics)
    if settings.predict:
        check_servers(benchmark.benchmarks)
    if any(one.show for one in benchmark.benchmarks):
        return _show(benchmark, settings)
    return _score(config, benchmark, settings) if config["predictions"] else _generate(config, benchmark, settings)


def _show(benchmark: Any, settings: Settings) -> dict[str, Any]:
    if os.environ.get("RANK", "0") == "0":
        for line in show(benchmark.benchmarks, settings):
            print(line)
    return {}


def _generate(config: Config, benchmark: Any, settings: Settings) -> dict[str, Any]:
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cpus())  # torch knows affinities, and no quotas
    load = import_quickly("dragonfly_lit.app.load")  # here: scoring a file of answers needs no model
    checkpoint = load.find_checkpoint(config["checkpoint"], config["runs_root"])
    dtype = None if config["dtype"] is None else getattr(torch, config["dtype"])
    model, processor = load.load_for_inference(
        checkpoint,
        device=_device(config["device"]),
        dtype=dtype,
        version=config["version"],
        vision=config["vision_config"],
        trust=config["trust"],
        quantize=config["quantize"],
        base=None if config["base"] is None else Path(config["base"]),
    )
    model, processor = import_quickly("dragonfly_lit.app.kept").with_kept(model, processor, config["kept"])
    root, settings = load.results_root(checkpoint), replace(settings, made=how_made(checkpoint))
    out = _out(config, benchmark, settings, root)
    beside = () if config["out"] else other_answers(root)
    asking = {"model": model, "processor": processor}
    if config["perturb"]["kind"] is not None:
        return _sweep(config["perturb"], benchmark, settings, out, asking, beside)
    results = run(benchmark.benchmarks, out=out, settings=settings, beside=beside, **asking)
    _print_summary(results, out, checkpoint)
    return results


def _sweep(
    wanted: Config, benchmark: Any, settings: Settings, out: Path, asking: dict[str, Any], beside: Sequence[Path]
) -> dict[str, Any]:
    """The results at each strength, `none` first; each strength has its folder beside the curve."""
    kind = wanted["kind"]
    ways = [None, *(Perturbation(kind=kind, strength=each) for each in wanted["strengths"] or STRENGTHS[kind])]
    out, results = out.with_name(f"{out.name}-{kind}"), {}
    for way in ways:
        name = "none" if way is None else f"{way.strength:g}"
        results[name] = run(
            benchmark.benchmarks,
            out=out / name,
            settings=replace(settings, perturb=way),
            beside=[*beside, *other_answers(out)],
            **asking,
        )
    if os.environ.get("RANK", "0") == "0":
        files = robustness.write(out, kind, results)
        print(robustness.markdown(kind, results))
        print(f"{', '.join(file.name for file in files)} are in {out}")
    return results


def _score(config: Config, benchmark: Any, settings: Settings) -> dict[str, Any]:
    predictions = Path(config["predictions"])
    if len(benchmark.benchmarks) != 1:
        raise ValueError(
            f"predictions={predictions} holds answers to one benchmark, but benchmark={benchmark.name} is a suite of "
            f"{', '.join(one.name for one in benchmark.benchmarks)}. Score them one by one."
        )
    for name, value in config["kept"].items():
        if value is not None:
            raise ValueError(f"kept.{name}={value}: predictions={predictions} are answers already. Leave it out.")
    if config["perturb"]["kind"] is not None:
        raise ValueError(f"perturb.kind={config['perturb']['kind']}: predictions={predictions} are answers already.")
    if not predictions.is_file():
        raise ValueError(
            f"predictions={predictions} does not exist. Give a JSONL file with an id and a prediction a line."
        )
    settings = replace(settings, made=how_made(predictions))
    out = _out(config, benchmark, settings, predictions.parent / "evaluation")
    results = score_predictions(benchmark.benchmarks[0], predictions, out, settings=settings)
    _print_summary(results, out, predictions)
    return results


def _out(config: Config, benchmark: Any, settings: Settings, root: Path) -> Path:
    kept = config["kept"]
    fewer = None if kept["top_k"] is None else f"top{kept['top_k']}"
    held = () if config["predictions"] else (config["quantize"], config["dtype"], fewer, kept["regions"])
    return Path(config["out"]) if config["out"] else root / results_name(benchmark, settings, held=held)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        # One process a GPU: torchrun numbers them.
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return usable_device(name, "device")


def _print_summary(results: dict[str, Any], out: Path, scored: Path) -> None:
    if os.environ.get("RANK", "0") == "0":
        standard_output().print(table(results))
        print(f"scored {scored}; results.json, results.md and report.html are in {out}")
