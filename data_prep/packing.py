"""Rows of a published format into a folder of shards, in parallel; a killed run goes on and ends byte-identical.

Shard n holds rows n x shard_size and on, whatever the number of workers, less the rows that had to be skipped. Several
machines share the work by shards: the first of three packs 0, 3, 6 and on (`joining` makes one folder of it). A shard
is written in `.pack/` (`state`), is done when its mark lies there too, and then moves to its place; `dataset.json` is
written when all are, and the data card last.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from dragonfly_lit.data.index import ShardEntry, read_rows, write_dataset_file
from dragonfly_lit.io import atomic, disk
from dragonfly_lit.io.lock import PATIENCE_SECONDS, locked
from dragonfly_lit.spec.row_files import read_rows as row_reader
from dragonfly_lit.spec.rows import Place, Row, RowError
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX, SIDECAR_SUFFIX, check_key

from .card import data_card
from .duplicates import find_duplicates
from .job import Job
from .parallel import in_order
from .records import records_of
from .shards import shard_name, write_indexed_shard
from .sharing import Rows, share_images
from .sources import BOXED, SHARING, source
from .sources.images import image_cells
from .state import (
    CARD_FILE,
    DUPLICATES_FILE,
    REPORT_FILE,
    SHEET_FILE,
    SKIPPED_FILE,
    begin,
    clear,
    dealt_folders,
    mark_path,
    marks_of,
    publish,
)

WAY_OUT = "Wait until it has ended, or choose another --out."
COLUMN_STATES = ("read", "unread", "empty")


def pack(
    job: Job,
    *,
    workers: int,
    on_progress: Callable[[int], None] = lambda num_rows: None,
    keep: Callable[[Rows], Rows] = lambda rows: rows,
) -> dict[str, Any]:
    """Pack everything that is not packed yet.

    Args:
        job: what to pack.
        workers: processes; 1 works in this one.
        on_progress: called with the number of rows of each shard as it is done.
        keep: the rows that are packed of those that are read; alike whenever it is called.

    Returns:
        The report that is written to `report.json`: samples, shards, skipped rows, exact duplicates.

    Raises:
        ValueError: an input is broken, a row is bad under `on_error="raise"`, or `out` holds something else.
    """
    check_job(job)
    plan = job.plan()
    if (job.out / DATASET_FILE).is_file() and not job.state.exists():
        return finished(job, plan)
    with working_in(job.out, job.out):
        if (job.out / DATASET_FILE).is_file():  # a run was killed as it ended, or has just ended
            report = finished(job, plan)
        else:
            if dealt := dealt_folders(job.out):
                number, of = next(iter(dealt))
                raise ValueError(
                    f"--out {job.out} holds part {number}/{of} of a pack that several machines share. Go on with "
                    "--part or --join, or choose another folder."
                )
            begin(job.state, plan)
            pack_shards(job, workers, on_progress, keep)
            report = conclude(job, plan, [job.state])
        write_card(job, report)
        clear(job.state)
    return report


def check_job(job: Job) -> None:
    """ValueError for what no run could do."""
    check_key(job.source)
    if job.shard_size < 1:
        raise ValueError(f"--shard-size {job.shard_size}: a shard needs at least 1 row.")


@contextmanager
def working_in(out: Path, folder: Path, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """The block works alone in `folder`, of the shards of `out`; what the disk refuses is one line."""
    try:
        with disk.naming(out), locked(folder, way_out=WAY_OUT, patience=patience):
            yield
    except OSError as error:
        told = disk.explain(error, go_on=" Then the same command goes on where it was.")
        raise ValueError(f"--out: {told or error}") from error


def write_card(job: Job, report: dict[str, Any]) -> None:
    """Write the card of a folder that has all its shards, unless it has one."""
    if os.path.lexists(job.out / CARD_FILE):
        return
    card, sheet = data_card(job.out, report, max_pixels=job.max_pixels)
    if sheet is not None and not os.path.lexists(job.out / SHEET_FILE):
        publish(job.state, SHEET_FILE, sheet)
    publish(job.state, CARD_FILE, card)


def finished(job: Job, plan: dict[str, Any]) -> dict[str, Any]:
    """The report of the run that has written `dataset.json`, which was this one.

    Raises:
        ValueError: it was another one.
    """
    with suppress(OSError, ValueError, KeyError):
        report = json.loads((job.out / REPORT_FILE).read_text())
        if report["plan"] == plan:
            return report
    raise ValueError(f"--out {job.out} already holds a data set packed otherwise. Choose another folder or delete it.")


def _chunks(rows: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    rows = iter(rows)
    number = 0
    while chunk := list(islice(rows, size)):
        yield number, chunk
        number += 1


def _samples(job: Job, keep: Callable[[Rows], Rows]) -> Iterator[Row | list[Row] | RowError]:
    """What becomes a sample: a row, or of formats of questions a list of those that share an image."""
    form = source(job.form)

    def rows() -> Rows:
        return keep(form.rows(job.path, job.options))

    if job.options.share_image and job.form not in SHARING:
        raise ValueError(
            f"--share-image: rows of {job.form} are not questions about an image. It is for {', '.join(SHARING)}."
        )
    if job.options.boxes and (job.form not in BOXED or job.options.share_image):
        which = "questions that share an image" if job.options.share_image else f"rows of {job.form}"
        raise ValueError(f"--boxes text: {which} have no boxes. It is for {', '.join(BOXED)} without --share-image.")
    if job.options.share_image:
        yield from share_images(rows, lambda row: image_cells(row, job.options.image_columns, *form.IMAGES), job.images)
    elif job.form in SHARING:
        yield from (row if isinstance(row, RowError) else [row] for row in rows())
    else:
        yield from rows()


def pack_shards(
    job: Job, workers: int, on_progress: Callable[[int], None], keep: Callable[[Rows], Rows]
) -> dict[str, int]:
    """Pack what was dealt to this machine and is not packed yet; how many rows and shards there are in all."""
    chunks = _chunks(_samples(job, keep), job.shard_size)
    mine, machines = job.deal or (1, 1)
    seen = {"rows": 0, "shards": 0}

    def to_do() -> Iterator[tuple[Job, int, list[Any]]]:
        for number, chunk in chunks:
            seen["rows"] += len(chunk)
            seen["shards"] += 1
            if number % machines != mine - 1:
                on_progress(len(chunk))
            elif mark_path(job.state, number).exists():
                _place_shard(job, number)
                on_progress(len(chunk))
            else:
                yield job, number, chunk

    for num_rows in in_order(pack_chunk, to_do(), workers):
        on_progress(num_rows)
    return seen


def _shard_name(job: Job, number: int) -> str:
    return shard_name(job.source.replace("/", "-"), number)


def pack_chunk(job: Job, number: int, rows: list[Any]) -> int:
    """Write shard `number` with its index, then its mark, and move it to its place; the number of rows it took.

    A chunk without a good row leaves no shard.
    """
    skipped: list[dict[str, Any]] = []
    columns: dict[str, Counter[str]] = {}
    metadata: Counter[str] = Counter()
    path = job.state / _shard_name(job, number)
    records = records_of(job, number * job.shard_size, rows, skipped, columns, metadata)
    entry = write_indexed_shard(path, records)
    mark = {"entry": entry and asdict(entry), "skipped": skipped, "columns": columns, "metadata": metadata}
    atomic.write(mark_path(job.state, number), json.dumps(mark))
    _place_shard(job, number)
    return len(rows)


def _place_shard(job: Job, number: int) -> None:
    """Move a shard and its index out of `.pack/`, unless they were moved already."""
    for suffix in ("", INDEX_SUFFIX, SIDECAR_SUFFIX):
        made = job.state / f"{_shard_name(job, number)}{suffix}"
        if made.is_file():
            if os.path.lexists(job.out / made.name):
                raise ValueError(f"--out {job.out}: {made.name} is not from this run. Take it away and run this again.")
            made.rename(job.out / made.name)


def conclude(job: Job, plan: dict[str, Any], states: Iterable[Path]) -> dict[str, Any]:
    """Write the lists, the report and, last of all, `dataset.json` of shards that are all done.

    Args:
        job: what was packed.
        plan: of the job.
        states: folders of state of those who have packed.

    Returns:
        The report.

    Raises:
        ValueError: there is no sample.
    """
    marks = marks_of(states)
    entries = [ShardEntry(**mark["entry"]) for mark in marks if mark["entry"]]
    skipped = [line for mark in marks for line in mark["skipped"]]
    if not entries:
        raise ValueError(f"{job.path}: no row could be packed: {_why_nothing(job, skipped)}")
    duplicates = find_duplicates([job.out / entry.name for entry in entries])
    for name, lines in ((SKIPPED_FILE, skipped), (DUPLICATES_FILE, duplicates)):
        if lines:
            publish(job.state, name, "".join(f"{json.dumps(line)}\n" for line in lines))
    num_samples = sum(entry.num_samples for entry in entries)
    report = {
        "samples": num_samples,
        "without_image": sum(not row.num_images for entry in entries for row in read_rows(job.out / entry.name)),
        "skipped": len(skipped),
        "duplicates": len(duplicates),
        "columns": _columns(marks),
        **({"metadata": dict(metadata)} if (metadata := _metadata(marks)) else {}),
        "plan": plan,
    }
    publish(job.state, REPORT_FILE, json.dumps(report, indent=1) + "\n")
    write_dataset_file(job.state, entries, licence=job.licence)
    (job.state / DATASET_FILE).rename(job.out / DATASET_FILE)
    atomic.sync(job.out)
    return report


def _why_nothing(job: Job, skipped: list[dict[str, Any]]) -> str:
    if skipped:
        first = skipped[0]
        row = Place(first["file"], first["row"], first.get("line"))
        return f"all {len(skipped)} were refused, the first of them for this: {row}: {first['reason']}"
    selected_by = getattr(source(job.form), "SELECTED_BY", None)
    if selected_by and any(True for _ in row_reader(job.path)):
        return f"none is of --{selected_by} {getattr(job.options, selected_by)}."
    return "the file has none."


def _columns(marks: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """By column: in how many packed rows it was read, held something that was not read, and was empty."""
    total: dict[str, Counter[str]] = {}
    for mark in marks:
        for name, counts in mark.get("columns", {}).items():
            total.setdefault(name, Counter()).update(counts)
    return {name: {state: counts[state] for state in COLUMN_STATES} for name, counts in total.items()}


def _metadata(marks: Iterable[dict[str, Any]]) -> Counter[str]:
    """How many images keep metadata of each kind."""
    return sum((Counter(mark.get("metadata", {})) for mark in marks), Counter())
