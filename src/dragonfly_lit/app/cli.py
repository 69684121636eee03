"""`dragonfly-train` and `dragonfly-evaluate`; in a clone `train.py` and `evaluate.py` call the same two functions."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from dragonfly_lit.app.errors import report_user_errors
from dragonfly_lit.app.mistyped import check_marked
from dragonfly_lit.app.overrides import CONF, check_types, choices, groups, normalize_overrides
from dragonfly_lit.io.commands import as_typed, put_current_folder_on_path
from dragonfly_lit.io.later import SELDOM_USED, SHARDED, import_quickly


def train() -> None:
    """Train one stage, or a sweep of them, as the command line says."""
    _run("train")


def evaluate() -> None:
    """Score a checkpoint, or a file of answers, on benchmarks, as the command line says."""
    _run("evaluate")


def _run(config: str) -> None:
    put_current_folder_on_path()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage(config, sys.argv[1:]))
        return
    job = {"train": _train, "evaluate": _evaluate}[config]
    with report_user_errors(config):
        sys.argv[1:] = normalize_overrides(sys.argv[1:], config)
        check_types(sys.argv[1:], config)
        check_marked(sys.argv[1:], config)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(job)()


def _train(cfg: DictConfig) -> float | None:
    """The validation loss, so that a sweeper can optimise it."""
    with report_user_errors("train", job=True):
        # After composing: a mistyped key is answered at once. What shards weights is loaded where a run shards them.
        sharded = () if cfg.strategy.get("name") != "single" else SHARDED
        return import_quickly("dragonfly_lit.app.train", SELDOM_USED + sharded).train(cfg)


def _evaluate(cfg: DictConfig) -> None:
    with report_user_errors("evaluate", job=True):
        import_quickly("dragonfly_lit.app.evaluate").evaluate(cfg)


def usage(config: str, arguments: Sequence[str] = ()) -> str:
    """What `--help` prints: how the command is typed, and the groups with their choices.

    Args:
        config: `train` or `evaluate`.
        arguments: of the command line; its `--config-dir` and `hydra.searchpath` bring further groups.
    """
    script, example = f"python {config}.py", {"train": "stage=2 name=mine", "evaluate": "benchmark=pope"}[config]
    listed = [(group, choices(group, arguments)) for group in sorted(groups(arguments)) if config in _users(group)]
    width = max(len(group) for group, _ in listed) + 2
    lines = [
        f"usage: {script} [GROUP=CHOICE] [KEY=VALUE] [-m] [--config-dir FOLDER]   such as {script} {example}",
        "",
        *(f"  {group:<{width}}{names}" for group, names in listed),
        "",
        f"{script} --cfg job prints every key with its value and runs nothing; the files of conf/ say what each means.",
        "-m runs a job for each combination of values that commas separate. --hydra-help lists the options of Hydra.",
    ]
    return as_typed("\n".join(lines))


def _users(group: str) -> tuple[str, ...]:
    """The configurations that have a group: the two of an evaluation are those of the score at a run's end as well."""
    return ("train", "evaluate") if group in ("benchmark", "prompt") else ("train",)
