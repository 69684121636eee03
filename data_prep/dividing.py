"""Rows into a part to train on, one to validate and one to test: a folder each, by patient or another column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from dragonfly_lit.io import atomic
from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.shard import DATASET_FILE, SPLITS, SPLITS_FILE
from dragonfly_lit.spec.table import SHARES, Division, divide

from .job import Job
from .joining import join, joined, pack_part
from .packing import pack
from .sharing import Rows
from .sources import source

Report = dict[str, Any]


def pack_parts(
    job: Job, *, workers: int, on_progress: Callable[[int], None] = lambda num_rows: None, joins: bool = False
) -> dict[str, Report | None]:
    """Pack every part of the rows into a folder of its own below `job.out`, or all of them into it.

    Args:
        job: what to pack, by which column it is divided, and what of it is dealt to this machine.
        workers: processes.
        on_progress: called with the number of rows of each shard as it is done.
        joins: whether nothing is packed, and what several machines have packed is made one.

    Returns:
        The report of each part by its name; by the empty name where the rows are not divided. None where other
        machines have not packed all of it yet.

    Raises:
        ValueError: as `packing.pack` and `spec.table.divide` do, or nothing is left to train on.
    """
    division = Division() if job.split_by == "" else divide(rows_of(job), job.split_by, job.shares or SHARES)
    if job.shares is not None and (division.says or not division.by):
        why = f"column {division.by} says the parts itself" if division.says else "nothing divides the rows"
        raise ValueError(f"--split-shares has no effect: {why}. Leave it out, or name a column with --split-by.")
    if not division.by:
        if (job.out / SPLITS_FILE).exists():
            raise ValueError(
                f"--out {job.out} already holds parts of a divided data set. Choose another folder, or delete it."
            )
        return {"": _pack(job, workers, on_progress, lambda rows: rows, joins)}
    if (job.out / DATASET_FILE).exists():
        raise ValueError(
            f"--out {job.out} already holds a data set that is not divided. Choose another folder, or delete it."
        )
    names = [part for part in SPLITS if part in division.parts.values()]
    if "train" not in names:
        told = f"all rows are to {' and '.join(names)}" if names else f"no row is to {', '.join(SPLITS)}"
        raise ValueError(
            f"{job.path}: by {division.by} {told}, so none is to train on. Name another column with --split-by, or "
            "`--split-by none`, which divides nothing."
        )
    jobs = {
        part: replace(job, part=part, split_by=division.by, out=job.out / part, source=f"{job.source}/{part}")
        for part in names
    }
    reports: dict[str, Report | None] = {
        part: _pack(one, workers, on_progress, lambda rows, part=part: of_part(rows, division, part), joins)
        for part, one in jobs.items()
    }
    if None in reports.values():  # the machine that ends last sees what all have done, whoever has joined what
        reports = {part: joined(one) for part, one in jobs.items()}
    whole = {part: report for part, report in reports.items() if report is not None}
    if len(whole) == len(names):
        atomic.write(job.out / SPLITS_FILE, json.dumps(_summary(division, whole), indent=1) + "\n")
    return reports


def _pack(
    job: Job, workers: int, on_progress: Callable[[int], None], keep: Callable[[Rows], Rows], joins: bool
) -> Report | None:
    if joins:
        return join(job)
    if job.deal is not None:
        return pack_part(job, workers=workers, on_progress=on_progress, keep=keep)
    return pack(job, workers=workers, on_progress=on_progress, keep=keep)


def rows_of(job: Job) -> Iterable[Row | RowError]:
    """The rows of a job, as its format reads them."""
    return source(job.form).rows(job.path, job.options)


def of_part(rows: Iterable[Row | RowError], division: Division, part: str) -> Iterator[Row | RowError]:
    """The rows of one part; those that cannot be read, or dealt out, come with the part to train on."""
    for row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            wanted = division.part_of(row) == part
        except RowError as error:
            if part == "train":
                yield error
            continue
        if wanted:
            yield row


def _summary(division: Division, reports: dict[str, Report]) -> dict[str, Any]:
    """How many samples and how many patients each part has; who they are is not written down."""
    parts = {}
    for part, report in reports.items():
        groups = sum(found == part for found in division.parts.values())
        parts[part] = {"samples": report["samples"], **({"groups": groups} if not division.says else {})}
    return {"split_by": division.by, "parts": parts}
