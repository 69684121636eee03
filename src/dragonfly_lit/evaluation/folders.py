"""The folder that the results of an evaluation go into: its name says what was asked and how."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dragonfly_lit.evaluation.benchmarks.base import Benchmark
from dragonfly_lit.evaluation.benchmarks.options import changed, path_name
from dragonfly_lit.evaluation.settings import Settings

LONGEST = 32
"""Letters of one part of a name."""


def results_name(benchmark: Any, settings: Settings, *, held: Sequence[str | None] = ()) -> str:
    """`gqa-testdev-llava`, `slake-test-zh-default-limit30`: benchmark, split and options, prompt set, limit.

    Args:
        benchmark: or a suite.
        settings: what differs from one greedy answer a question is named too, and who judges answers, if anybody does.
        held: how the model is held, where that is not how it was saved: a type, a format of few bits, other crops kept.
    """
    members = benchmark.benchmarks
    own = changed(benchmark) if isinstance(benchmark, Benchmark) else {}  # a suite's variant has its members'
    length = settings.max_new_tokens or own.get("max_new_tokens")
    judge = settings.judge.name
    limit = settings.limit or (members[0].limit if len({one.limit for one in members}) == 1 else None)
    parts = [
        benchmark.name,
        benchmark.split,
        *benchmark.variant,
        path_name(folder) if (folder := own.get("folder")) else "",
        settings.prompts.told,
        f"limit{limit}" if limit else "",
        f"tokens{length}" if length else "",
        "loglikelihood" if settings.scoring == "loglikelihood" else "",
        f"text-{settings.likelihood_length}" if settings.by_text else "",
        f"shots{settings.shots}" if settings.shots else "",
        f"from_{settings.shots_split}" if settings.shots and settings.shots_split else "",
        f"draw{settings.shots_seed}" if settings.shots and settings.shots_seed else "",
        settings.perturb.name if settings.perturb else "",
        "java" if settings.metrics.caption_metrics == "java" else "",
        f"bertscore_{Path(bert).name}" if (bert := settings.metrics.bertscore_model) else "",
        f"layer{layer}" if (layer := settings.metrics.bertscore_layer) else "",
        "circular" if any(one.circular for one in members) else "",
        f"t{settings.temperature:g}" if settings.temperature else "",
        f"n{settings.draws}" if settings.draws > 1 else "",
        f"seed{settings.seed}" if settings.temperature and settings.seed else "",
        f"judge_{judge}" if not settings.predict and any(one.judged for one in members) and judge else "",
        *(each or "" for each in held),
    ]
    return "-".join(_short(part) for part in parts if part)


def _short(part: str) -> str:
    """A part without what a folder's name may not hold; of a long one the start, and a digest that tells it apart."""
    plain = re.sub(r"[^\w.+=]+", "_", part).strip("_")
    if len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 7]}_{hashlib.sha256(part.encode()).hexdigest()[:6]}"


def other_answers(root: Path) -> list[Path]:
    """The folders of answers of all evaluations below `root`, whose answers need not be asked for again."""
    return sorted(root.glob("*/answers"))
