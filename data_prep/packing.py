"""Rows of a published format into a folder of shards, in parallel; a killed run goes on and ends byte-identical.

Shard n holds rows n x shard_size and on, whatever the number of workers, less the rows that had to be skipped. A shard
is written in `.pack/`, is done when its mark lies there too, and then moves to its place; `dataset.json` is written
last, and only then `.pack/` goes. So whatever else lies in the folder is never touched, and what is cleaned away after
a kill is cleaned in `.pack/`, and by the names that are given here.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from dragonfly_lit.data.index import ShardEntry, read_rows, write_dataset_file
from dragonfly_lit.io import atomic, disk
from dragonfly_lit.io.lock import locked
from dragonfly_lit.spec.row_files import read_rows as row_reader
from dragonfly_lit.spec.rows import Place, Row, RowError
from dragonfly_lit.spec.shard import DATASET_FILE, INDEX_SUFFIX, SIDECAR_SUFFIX, check_key

from .job import Job
from .parallel import in_order
from .records import records_of
from .shards import shard_name, write_indexed_shard
from .sharing import Rows, share_images
from .sources import SHARING, source

STATE_FOLDER = ".pack"
PLAN_FILE = "plan.json"
REPORT_FILE = "report.json"
SKIPPED_FILE = "skipped.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
COLUMN_STATES = ("read", "unread", "empty")
LISTS = (SKIPPED_FILE, DUPLICATES_FILE, REPORT_FILE, DATASET_FILE)
"""Files of a finished run beside the shards, in the order in which they appear."""
_OWN = re.compile(
    r"plan\.json|\d{5}\.json|\..+\.\d+\.partial|.+-\d{5}\.tar(\.idx|\.meta\.jsonl)?|" + "|".join(map(re.escape, LISTS))
)
"""Names that files of a run have in `.pack/`."""


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
    check_key(job.source)
    if job.shard_size < 1:
        raise ValueError(f"--shard-size {job.shard_size}: a shard needs at least 1 row.")
    plan = job.plan()
    state = job.out / STATE_FOLDER
    if (job.out / DATASET_FILE).is_file() and not state.exists():
        return _finished(job, plan)
    try:
        with disk.naming(job.out), locked(job.out, way_out="Wait until it has ended, or choose another --out."):
            if (job.out / DATASET_FILE).is_file():  # a run was killed as it ended, or has just ended
                report = _finished(job, plan)
            else:
                _begin(job, state, plan)
                _run(job, state, workers, on_progress, keep)
                report = _conclude(job, state, plan)
            _clear(state)
    except OSError as error:
        told = disk.explain(error, go_on=" Then the same command goes on where it was.")
        raise ValueError(f"--out: {told or error}") from error
    return report


def _finished(job: Job, plan: dict[str, Any]) -> dict[str, Any]:
    with suppress(OSError, ValueError, KeyError):
        report = json.loads((job.out / REPORT_FILE).read_text())
        if report["plan"] == plan:
            return report
    raise ValueError(f"--out {job.out} already holds a data set packed otherwise. Choose another folder or delete it.")


def _begin(job: Job, state: Path, plan: dict[str, Any]) -> None:
    """Make `.pack/` with this run's plan, or go on in the one that a run with the same plan left behind."""
    if state.is_symlink() or (state.exists() and not (state.is_dir() and all(map(_is_own, state.iterdir())))):
        raise ValueError(
            f"--out {job.out}: {STATE_FOLDER} in it is not from this command. Take it away or choose another folder."
        )
    path = state / PLAN_FILE
    before = _read_plan(path)
    changed = [f"{key} was {before.get(key)}, is {plan[key]}" for key in plan if before.get(key) != plan[key]]
    if before and changed and any(mark["entry"] for mark in _marks(state)):
        raise ValueError(
            f"--out {job.out} holds a run that was stopped, and it was not this one: {'; '.join(changed)}. "
            "Go on with the same arguments and files, or delete the folder."
        )
    if changed:  # nothing lies here yet; or nothing was done yet, and a row was mended or an option changed
        _check_names(job)
        _clear(state)
        state.mkdir()
        atomic.write(path, json.dumps(plan))
    for left_behind in state.glob(".*.partial"):  # of a run that was killed
        left_behind.unlink()


def _is_own(path: Path) -> bool:
    return bool(_OWN.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def _read_plan(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with suppress(ValueError):
        plan = json.loads(path.read_text())
        if isinstance(plan, dict) and "inputs" in plan:
            return plan
    raise ValueError(f"{path} is not the plan of a run. Take its folder away or choose another --out.")


def _check_names(job: Job) -> None:
    """Raise where something lies in the folder that a new run would write over."""
    if any(job.out.glob("*.tar")):
        raise ValueError(f"--out {job.out} already holds shards that are not from this run. Choose another folder.")
    for name in LISTS:
        if os.path.lexists(job.out / name):
            raise ValueError(f"--out {job.out} already holds a {name}, which would be lost. Choose another folder.")


def _clear(state: Path) -> None:
    """Take `.pack/` away, but for what no run of this command wrote into it; the plan goes last."""
    if state.is_dir() and not state.is_symlink():
        for path in sorted(filter(_is_own, state.iterdir()), key=lambda path: path.name == PLAN_FILE):
            path.unlink()
        with suppress(OSError):
            state.rmdir()


def _marks(state: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(state.glob("[0-9]*.json"))]


def _chunks(rows: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    rows = iter(rows)
    number = 0
    while chunk := list(islice(rows, size)):
        yield number, chunk
        number += 1


def _mark(state: Path, number: int) -> Path:
    return state / f"{number:05d}.json"


def _samples(job: Job, keep: Callable[[Rows], Rows]) -> Iterator[Row | list[Row] | RowError]:
    """What becomes a sample: a row, or of formats of questions a list of those that share an image."""
    form = source(job.form)

    def rows() -> Rows:
        return keep(form.rows(job.path, job.options))

    if job.options.share_image and job.form not in SHARING:
        raise ValueError(
            f"--share-image: rows of {job.form} are not questions about an image. It is for {', '.join(SHARING)}."
        )
    if job.options.share_image:
        yield from share_images(rows, job.options.image_columns or form.IMAGES, job.images)
    elif job.form in SHARING:
        yield from (row if isinstance(row, RowError) else [row] for row in rows())
    else:
        yield from rows()


def _run(job: Job, state: Path, workers: int, on_progress: Callable[[int], None], keep: Callable[[Rows], Rows]) -> None:
    chunks = _chunks(_samples(job, keep), job.shard_size)

    def to_do() -> Iterator[tuple[Job, int, list[Any]]]:
        for number, chunk in chunks:
            if _mark(state, number).exists():
                _place_shard(job, number)
                on_progress(len(chunk))
            else:
                yield job, number, chunk

    for num_rows in in_order(pack_chunk, to_do(), workers):
        on_progress(num_rows)


def _shard_name(job: Job, number: int) -> str:
    return shard_name(job.source.replace("/", "-"), number)


def pack_chunk(job: Job, number: int, rows: list[Any]) -> int:
    """Write shard `number` with its index, then its mark, and move it to its place; the number of rows it took.

    A chunk without a good row leaves no shard.
    """
    state = job.out / STATE_FOLDER
    skipped: list[dict[str, Any]] = []
    columns: dict[str, Counter[str]] = {}
    metadata: Counter[str] = Counter()
    path = state / _shard_name(job, number)
    records = records_of(job, number * job.shard_size, rows, skipped, columns, metadata)
    entry = write_indexed_shard(path, records)
    mark = {"entry": entry and asdict(entry), "skipped": skipped, "columns": columns, "metadata": metadata}
    atomic.write(_mark(state, number), json.dumps(mark))
    _place_shard(job, number)
    return len(rows)


def _place_shard(job: Job, number: int) -> None:
    """Move a shard and its index out of `.pack/`, unless they were moved already."""
    for suffix in ("", INDEX_SUFFIX, SIDECAR_SUFFIX):
        made = job.out / STATE_FOLDER / f"{_shard_name(job, number)}{suffix}"
        if made.is_file():
            if os.path.lexists(job.out / made.name):
                raise ValueError(f"--out {job.out}: {made.name} is not from this run. Take it away and run this again.")
            made.rename(job.out / made.name)


def _conclude(job: Job, state: Path, plan: dict[str, Any]) -> dict[str, Any]:
    marks = _marks(state)
    entries = [ShardEntry(**mark["entry"]) for mark in marks if mark["entry"]]
    skipped = [line for mark in marks for line in mark["skipped"]]
    if not entries:
        raise ValueError(f"{job.path}: no row could be packed: {_why_nothing(job, skipped)}")
    duplicates = find_duplicates(job.out / entry.name for entry in entries)
    for name, lines in ((SKIPPED_FILE, skipped), (DUPLICATES_FILE, duplicates)):
        if lines:
            _publish(job, name, "".join(f"{json.dumps(line)}\n" for line in lines))
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
    _publish(job, REPORT_FILE, json.dumps(report, indent=1) + "\n")
    write_dataset_file(state, entries, licence=job.licence)
    (state / DATASET_FILE).rename(job.out / DATASET_FILE)
    atomic.sync(job.out)
    return report


def _publish(job: Job, name: str, text: str) -> None:
    made = job.out / STATE_FOLDER / name
    atomic.write(made, text)
    made.rename(job.out / name)


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


def find_duplicates(shards: Iterable[Path]) -> list[dict[str, str]]:
    """Samples whose turns and image bytes equal those of an earlier one, by the checksums of the sidecars."""
    first: dict[str, str] = {}
    found = []
    for shard in shards:
        for row in read_rows(shard):
            if row.checksum and first.setdefault(row.checksum, row.key) != row.key:
                found.append({"key": row.key, "same_as": first[row.checksum]})
    return found
