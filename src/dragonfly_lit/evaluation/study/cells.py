"""What a sweep left on the disk: its cells, their seeds, and means with intervals over the seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from dragonfly_lit.io.names import job_folder

RESULT_FILE, CONFIG_FILE, PLAN_FILE = "result.json", "config.yaml", "multirun.yaml"
NOT_IN_A_NAME = ("experiment", "hydra", "name", "runs_root", "size")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds and its 95% interval by Student's t; without bounds where there is one seed.

    Attributes:
        mean: over the seeds.
        low: lower bound.
        high: upper bound.
        num: of seeds.
        values: one a seed, where they are known.
    """

    mean: float
    low: float | None
    high: float | None
    num: int
    values: tuple[float, ...] = ()

    def clear_of(self, other: Estimate) -> bool:
        """Whether the two intervals do not overlap."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.low > other.high or self.high < other.low


def estimate(values: Iterable[float | None], *, share: bool = False) -> Estimate | None:
    """The estimate from one value a seed; None without any.

    Args:
        values: one a seed; None and nan are left out.
        share: whether they are shares, so that the interval ends at 0 and 1; a score above 1, as CIDEr has, is none.
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return None
    mean, num = statistics.fmean(known), len(known)
    if num == 1:
        return Estimate(mean=mean, low=None, high=None, num=1, values=tuple(known))
    from scipy import stats

    half = float(stats.t.ppf(0.975, num - 1)) * statistics.stdev(known) / math.sqrt(num)
    low, high = mean - half, mean + half
    if share and min(known) >= 0 and max(known) <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(mean=mean, low=low, high=high, num=num, values=tuple(known))


@dataclass(kw_only=True)
class Cell:
    """One setting of a study.

    Attributes:
        name: `cell=low`, or the overrides that make it, the seed left out.
        title: how tables and curves call it.
        parts: the comparisons it belongs to.
        results: what each finished job wrote, by seed.
        unfinished: seeds whose job began and did not end.
        planned: seeds that the sweep was to run, where that is known.
    """

    name: str
    title: str = ""
    parts: tuple[str, ...] = ()
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    planned: set[str] = field(default_factory=set)
    folders: dict[str, Path] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`3 of 3 seeds`, or what is missing."""
        wanted = len(self.planned | self.unfinished | set(self.results))
        if not self.results:
            return "not finished" if self.unfinished else "not run"
        return f"{len(self.results)} of {wanted} seeds"

    def over_seeds(self, key: str) -> Estimate | None:
        """A number at the top of the results, such as `image_tokens`."""
        return estimate(result.get(key) for result in self.results.values())

    def accuracy(self, benchmark: str, sizes: Sequence[str] | None = None) -> Estimate | None:
        """The mean score of a question about details of these sizes; all sizes unless given."""
        found = (r.get("benchmarks", {}).get(benchmark) for r in self.results.values())
        return estimate((_accuracy(entry, sizes) for entry in found), share=True)

    def by_kind(self, benchmark: str, kind: str) -> Estimate | None:
        """The mean score of a question of one kind."""
        found = (r.get("benchmarks", {}).get(benchmark) for r in self.results.values())
        return estimate((_group(entry, "category", kind) for entry in found), share=True)

    def answering(self, benchmark: str) -> Estimate | None:
        """Answers a second; nan where all answers lay there already is left out."""
        entries = (r.get("benchmarks", {}).get(benchmark, {}) for r in self.results.values())
        return estimate(entry.get("answers_per_s") for entry in entries)

    def selection(self, benchmark: str, key: str) -> Estimate | None:
        """`recall`, or `random`: what a random choice of as many crops would find."""
        found = (r.get("benchmarks", {}).get(benchmark, {}).get("selection") for r in self.results.values())
        return estimate((one[key] for one in found if one), share=True)

    def recall(self, benchmark: str, sizes: Sequence[str]) -> Estimate | None:
        """Selection recall of details of these sizes; None where nothing was selected, or a size's is not known."""
        entries = (r.get("benchmarks", {}).get(benchmark) or {} for r in self.results.values())
        return estimate((_recall(entry, sizes) for entry in entries), share=True)


def _group(entry: Mapping[str, Any] | None, kind: str, name: str) -> float | None:
    group = (entry or {}).get("groups", {}).get(kind, {}).get(name)
    return None if group is None else group["score"]


def _accuracy(entry: Mapping[str, Any] | None, sizes: Sequence[str] | None) -> float | None:
    if entry is None:
        return None
    if sizes is None:
        return entry["scores"][entry["headline"]]
    groups = [group for name, group in entry["groups"].get("split", {}).items() if name in sizes]
    total = sum(group["num_questions"] for group in groups)
    return sum(group["score"] * group["num_questions"] for group in groups) / total if total else None


def _recall(entry: Mapping[str, Any], sizes: Sequence[str]) -> float | None:
    by_size, groups = (entry.get("selection") or {}).get("by_split", {}), entry.get("groups", {}).get("split", {})
    if not sizes or any(size not in by_size or size not in groups for size in sizes):
        return None
    total = sum(groups[size]["num_questions"] for size in sizes)
    return sum(by_size[size] * groups[size]["num_questions"] for size in sizes) / total


@dataclass(frozen=True, kw_only=True)
class Study:
    """A sweep as it lies on the disk; `benchmark` is what its jobs were scored on."""

    folder: Path
    cells: tuple[Cell, ...]
    benchmark: str

    @property
    def sizes(self) -> list[str]:
        """The sizes of details, ascending."""
        return sorted({name for entry in self._entries() for name in entry["groups"].get("split", {})})

    @property
    def kinds(self) -> list[str]:
        """The kinds of question."""
        return sorted({name for entry in self._entries() for name in entry["groups"].get("category", {})})

    @property
    def parts(self) -> dict[str, list[Cell]]:
        """The comparisons with several cells; what is in none of them is under `cells`."""
        parts: dict[str, list[Cell]] = {}
        for cell in self.cells:
            for part in cell.parts:
                parts.setdefault(part, []).append(cell)
        parts = {part: cells for part, cells in parts.items() if len(cells) > 1}
        compared = {cell.name for cells in parts.values() for cell in cells}
        if rest := [cell for cell in self.cells if cell.name not in compared]:
            parts["cells"] = rest
        return parts

    def small(self, at_most: float) -> list[str]:
        """The sizes of details up to a share of the side."""
        return [size for size in self.sizes if int(size.rstrip("%")) <= 100 * at_most]

    def _entries(self) -> Iterable[dict[str, Any]]:
        for cell in self.cells:
            for result in cell.results.values():
                if self.benchmark in result.get("benchmarks", {}):
                    yield result["benchmarks"][self.benchmark]


def read_study(folder: Path) -> Study:
    """The study of a sweep's folder.

    Raises:
        ValueError: the folder holds no finished job, or none that was scored on a benchmark.
    """
    cells: dict[str, Cell] = {}
    for name in _planned(folder):
        cell, seed = split_job(name)
        cells.setdefault(cell, Cell(name=cell)).planned.add(seed)
    for job in sorted(path for path in folder.glob("*") if path.is_dir() and (path / CONFIG_FILE).is_file()):
        name, seed = split_job(job.name)
        cell = cells.setdefault(name, Cell(name=name))
        cell.folders[seed] = job
        if (job / RESULT_FILE).is_file():
            cell.results[seed] = json.loads((job / RESULT_FILE).read_text())
        else:
            cell.unfinished.add(seed)
        about = (yaml.safe_load((job / CONFIG_FILE).read_text()) or {}).get("about") or {}
        cell.title, cell.parts = about.get("title", ""), tuple(about.get("parts", ()))
    for cell in cells.values():
        cell.title = cell.title or cell.name.removeprefix("cell=").replace("_", " ")
    scored = [r["benchmarks"] for cell in cells.values() for r in cell.results.values() if r.get("benchmarks")]
    if not scored:
        raise ValueError(
            f"{folder} holds no finished job that was scored. Run `python train.py -m experiment=zoom_ablation`, or "
            "give the folder of another sweep with benchmark=NAME."
        )
    return Study(folder=folder, cells=tuple(cells.values()), benchmark=next(iter(scored[0])))


def split_job(name: str) -> tuple[str, str]:
    """Cell and seed of a job's folder: `cell=low,seed=0` is the cell `cell=low` and the seed `0`."""
    items = name.split(",")
    seeds = [item.removeprefix("seed=") for item in items if item.startswith("seed=")]
    return ",".join(item for item in items if not item.startswith("seed=")) or "default", seeds[0] if seeds else "0"


def _planned(folder: Path) -> list[str]:
    """Names of the jobs that the last sweep into this folder was to run; only lists `a,b,c` are understood."""
    path = folder / PLAN_FILE
    if not path.is_file():
        return []
    hydra = (yaml.safe_load(path.read_text()) or {}).get("hydra", {})
    swept: dict[str, str] = {key: str(value) for key, value in (hydra.get("sweeper", {}).get("params") or {}).items()}
    for override in hydra.get("overrides", {}).get("task", []):
        key, _, value = override.partition("=")
        swept[key] = value
    swept = {
        key.removeprefix("experiment/"): value for key, value in swept.items()
    }  # `experiment/cell` names `cell=...`
    swept = {key: value for key, value in swept.items() if key.split(".")[0].split("/")[0] not in NOT_IN_A_NAME}
    if any("(" in value for value in swept.values()):
        return []
    return [
        job_folder([(key, v.strip("'\"")) for key, v in zip(swept, values, strict=True)])
        for values in product(*(value.split(",") for value in swept.values()))
    ]
