"""Every benchmark by its name."""

from __future__ import annotations

from collections.abc import Mapping

from dragonfly_lit.evaluation.tasks.base import Task
from dragonfly_lit.evaluation.tasks.captions import MIMICCXR, ROCO, IUXRay, PeirGross
from dragonfly_lit.evaluation.tasks.chartqa import ChartQA
from dragonfly_lit.evaluation.tasks.choice import AI2D, ScienceQA
from dragonfly_lit.evaluation.tasks.easy_vqa import EasyVQA
from dragonfly_lit.evaluation.tasks.medical import SLAKE, VQARAD, PathVQA
from dragonfly_lit.evaluation.tasks.mm_vet import MMVet
from dragonfly_lit.evaluation.tasks.mmmu import MMMUTask
from dragonfly_lit.evaluation.tasks.probes import Probes
from dragonfly_lit.evaluation.tasks.vqa import GQA, TextVQA, VizWiz
from dragonfly_lit.evaluation.tasks.yes_no import MMETask, POPETask

TASKS: Mapping[str, type[Task]] = {
    task.name: task
    for task in (
        AI2D, ScienceQA, ChartQA, TextVQA, POPETask, GQA, VizWiz, MMETask, MMMUTask, MMVet, VQARAD, SLAKE, PathVQA,
        IUXRay, PeirGross, ROCO, MIMICCXR, EasyVQA, Probes,
    )
}  # fmt: skip
