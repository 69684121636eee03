"""Rows into a part to train on, one to validate and one to test: a folder each, by patient or another column."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from dragonfly_lit.io import atomic
from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.shard import DATASET_FILE, SPLITS, SPLITS_FILE
from dragonfly_lit.spec.table import Division, divide

from .job import Job
from .packing import pack
from .sources import source


def pack_parts(
    job: Job, *, workers: int, on_progress: Callable[[int], None] = lambda num_rows: None
) -> dict[str, dict[str, Any]]:
    """Pack every part of the rows into a folder of its own below `job.out`, or all of them into it.

    Args:
        job: what to pack, and by which column it is divided.
        workers: processes.
        on_progress: called with the number of rows of each shard as it is done.

    Returns:
        The report of each part by its name; by the empty name where the rows are not divided.

    Raises:
        ValueError: as `packing.pack` and `spec.table.divide` do, or nothing is left to train on.
    """
    division = Division() if job.split_by == "" else divide(rows_of(job), job.split_by, job.shares)
    if not division.by:
        if (job.out / SPLITS_FILE).exists():
            raise ValueError(
                f"--out {job.out} already holds parts of a divided data set. Choose another folder, or delete it."
            )
        return {"": pack(job, workers=workers, on_progress=on_progress)}
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
    reports = {}
    for part in names:
        one = replace(job, part=part, split_by=division.by, out=job.out / part, source=f"{job.source}/{part}")
        reports[part] = pack(
            one, workers=workers, on_progress=on_progress, keep=lambda rows, part=part: of_part(rows, division, part)
        )
    atomic.write(job.out / SPLITS_FILE, json.dumps(_summary(division, reports), indent=1) + "\n")
    return reports


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


def _summary(division: Division, reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many samples and how many patients each part has; who they are is not written down."""
    parts = {}
    for part, report in reports.items():
        groups = sum(found == part for found in division.parts.values())
        parts[part] = {"samples": report["samples"], **({"groups": groups} if not division.says else {})}
    return {"split_by": division.by, "parts": parts}
