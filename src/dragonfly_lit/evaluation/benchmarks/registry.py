"""Every benchmark by its name."""

from __future__ import annotations

from collections.abc import Mapping

from dragonfly_lit.evaluation.benchmarks.base import Task
from dragonfly_lit.evaluation.benchmarks.captions import MIMICCXR, ROCO, IUXRay, PeirGross
from dragonfly_lit.evaluation.benchmarks.chartqa import ChartQA
from dragonfly_lit.evaluation.benchmarks.choice import AI2D, ScienceQA
from dragonfly_lit.evaluation.benchmarks.easy_vqa import EasyVQA
from dragonfly_lit.evaluation.benchmarks.medical import SLAKE, VQARAD, PathVQA
from dragonfly_lit.evaluation.benchmarks.mm_vet import MMVet
from dragonfly_lit.evaluation.benchmarks.mmmu import MMMUTask
from dragonfly_lit.evaluation.benchmarks.probes import Probes
from dragonfly_lit.evaluation.benchmarks.vqa import GQA, TextVQA, VizWiz
from dragonfly_lit.evaluation.benchmarks.yes_no import MMETask, POPETask

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        AI2D, ScienceQA, ChartQA, TextVQA, POPETask, GQA, VizWiz, MMETask, MMMUTask, MMVet, VQARAD, SLAKE, PathVQA,
        IUXRay, PeirGross, ROCO, MIMICCXR, EasyVQA, Probes,
    )
}  # fmt: skip
