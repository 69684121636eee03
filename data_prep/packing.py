"""Rows of a published format into a folder of shards, in parallel; a killed run goes on and ends byte-identical.

Shard n holds rows n x shard_size and on, whatever the number of workers, less the rows that had to be skipped. A shard
is done when its mark lies in `.pack/`; `dataset.json` is written last, and only then `.pack/` goes.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from dragonfly_lit.data.index import ShardEntry, build_index, read_rows, write_dataset_file
from dragonfly_lit.io import atomic
from dragonfly_lit.processing.images import MAX_PIXELS, Window
from dragonfly_lit.spec.records import Record
from dragonfly_lit.spec.shard import DATASET_FILE, check_key

from .images import load_image
from .parallel import in_order
from .shards import alone, write_shard
from .sources import source
from .sources.conversations import Options
from .sources.files import row_files

STATE_FOLDER = ".pack"
PLAN_FILE = "plan.json"
REPORT_FILE = "report.json"
SKIPPED_FILE = "skipped.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is packed, from where, and how.

    Attributes:
        form: one of `sources.SOURCES`.
        path: file or folder with the rows.
        images: folder of the images that rows name.
        out: folder of the shards.
        source: name of the data set; keys start with it.
        licence: of the data, as it is to be stated.
        shard_size: rows a shard.
        max_side: longest side of an image in pixels; None keeps every image as it is.
        max_pixels: of an image that is decoded; None is the decoder's own limit.
        window: the values that become black and white in images of more than 8 bits; None keeps such images.
        on_error: `raise` stops at a bad row; `skip` leaves it out and writes it down.
        options: what the format is asked for.
    """

    form: str
    path: Path
    out: Path
    source: str
    licence: str
    images: Path | None = None
    shard_size: int = 1000
    max_side: int | None = None
    max_pixels: int | None = None
    window: Window | None = None
    on_error: Literal["raise", "skip"] = "raise"
    options: Options = field(default_factory=Options)

    def plan(self) -> dict[str, Any]:
        """What must be the same when a killed run goes on; an input file is known by its size and time."""
        inputs = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in _input_files(self)]
        return {
            "from": self.form,
            "inputs": inputs,
            "source": self.source,
            "licence": self.licence,
            "shard_size": self.shard_size,
            "max_side": self.max_side,
            **({"max_pixels": self.max_pixels} if self.max_pixels is not None else {}),
            **({"window": list(self.window)} if self.window is not None else {}),
            "options": asdict(self.options),
        }


def _input_files(job: Job) -> list[Path]:
    if job.form == "roco" and job.path.suffix == ".txt" and job.path.is_file():
        return [job.path]
    return row_files(job.path)


def pack(job: Job, *, workers: int, on_progress: Callable[[int], None] = lambda num_rows: None) -> dict[str, Any]:
    """Pack everything that is not packed yet.

    Args:
        job: what to pack.
        workers: processes; 1 works in this one.
        on_progress: called with the number of rows of each shard as it is done.

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
    state.mkdir(parents=True, exist_ok=True)
    with alone(state / "lock"):
        _check_plan(state / PLAN_FILE, plan, job.out)
        for left_behind in [*job.out.glob(".?*.*"), *state.glob(".?*")]:  # of a run that was killed
            left_behind.unlink()
        try:
            _run(job, state, workers, on_progress)
            report = _conclude(job, state, plan)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ValueError(
                f"--out {job.out}: the disk is full. Make room and run the same command again; it goes on where it was."
            ) from error
    shutil.rmtree(state)
    return report


def _finished(job: Job, plan: dict[str, Any]) -> dict[str, Any]:
    with suppress(OSError, ValueError, KeyError):
        report = json.loads((job.out / REPORT_FILE).read_text())
        if report["plan"] == plan:
            return report
    raise ValueError(f"--out {job.out} already holds a data set packed otherwise. Choose another folder or delete it.")


def _check_plan(path: Path, plan: dict[str, Any], out: Path) -> None:
    if not path.exists():
        if any(out.glob("*.tar")):
            raise ValueError(f"--out {out} already holds shards that are not from this run. Choose another folder.")
        _write_plan(path, plan)
        return
    before = json.loads(path.read_text())
    changed = [f"{key} was {before.get(key)}, is {plan[key]}" for key in plan if before.get(key) != plan[key]]
    if changed and any(path.parent.glob("[0-9]*.json")):
        raise ValueError(
            f"--out {out} holds a run that was stopped, and it was not this one: {'; '.join(changed)}. "
            "Go on with the same arguments and files, or delete the folder."
        )
    if changed:  # nothing of it was done yet: a row was mended, or an option changed
        for unmarked in out.glob("*.tar*"):
            unmarked.unlink()
        _write_plan(path, plan)


def _write_plan(path: Path, plan: dict[str, Any]) -> None:
    atomic.write(path, json.dumps(plan))


def _chunks(rows: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    rows = iter(rows)
    number = 0
    while chunk := list(islice(rows, size)):
        yield number, chunk
        number += 1


def _mark(state: Path, number: int) -> Path:
    return state / f"{number:05d}.json"


def _run(job: Job, state: Path, workers: int, on_progress: Callable[[int], None]) -> None:
    chunks = _chunks(source(job.form).rows(job.path, job.options), job.shard_size)

    def to_do() -> Iterator[tuple[Job, int, list[Any]]]:
        for number, chunk in chunks:
            if _mark(state, number).exists():
                on_progress(len(chunk))
            else:
                yield job, number, chunk

    for num_rows in in_order(pack_chunk, to_do(), workers):
        on_progress(num_rows)


def pack_chunk(job: Job, number: int, rows: list[Any]) -> int:
    """Write shard `number` with its index, then its mark; the number of rows it took.

    A chunk without a good row leaves no shard.
    """
    skipped: list[dict[str, Any]] = []
    path = job.out / f"{job.source.replace('/', '-')}-{number:05d}.tar"
    if write_shard(path, _records(job, number * job.shard_size, rows, skipped)):
        entry = asdict(build_index(path))
    else:
        path.unlink()
        entry = None
    atomic.write(_mark(job.out / STATE_FOLDER, number), json.dumps({"entry": entry, "skipped": skipped}))
    return len(rows)


def _records(job: Job, start: int, rows: list[Any], skipped: list) -> Iterator[Record]:
    for place, row in enumerate(rows, start):
        try:
            record = _record(job, place, row)
        except (ValueError, OSError) as error:
            if job.on_error == "raise":
                raise ValueError(
                    f"{job.path}, row {place}{_name(row)}: {error} (--on-error skip leaves such rows out)"
                ) from error
            skipped.append({"row": place, "reason": f"{_name(row)}: {error}".lstrip(" :")})
            continue
        yield record


def _record(job: Job, place: int, row: Any) -> Record:
    try:
        conversation = source(job.form).conversation(row, job.options)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a column has another type than in this format ({error})") from error
    max_pixels = MAX_PIXELS if job.max_pixels is None else job.max_pixels
    images = tuple(
        load_image(image, job.images, job.max_side, max_pixels=max_pixels, window=job.window)
        for image in conversation.images
    )
    meta = {**conversation.meta, **({"id": conversation.name} if conversation.name else {})}
    return Record(
        key=f"{job.source}-{place:08d}",
        source=job.source,
        licence=job.licence,
        turns=conversation.turns,
        images=images,
        share_image=conversation.share_image,
        meta=meta,
    )


def _name(row: Any) -> str:
    first = row[0] if isinstance(row, list) else row
    named = next((first[key] for key in ("id", "qid", "question_id") if first.get(key) is not None), None)
    return "" if named is None else f" ({named!s:.60})"


def _conclude(job: Job, state: Path, plan: dict[str, Any]) -> dict[str, Any]:
    marks = [json.loads(path.read_text()) for path in sorted(state.glob("[0-9]*.json"))]
    entries = [ShardEntry(**mark["entry"]) for mark in marks if mark["entry"]]
    skipped = [line for mark in marks for line in mark["skipped"]]
    if not entries:
        raise ValueError(f"{job.path}: no row could be packed{f'; the first: {skipped[0]}' if skipped else ''}.")
    duplicates = find_duplicates(job.out / entry.name for entry in entries)
    for name, lines in ((SKIPPED_FILE, skipped), (DUPLICATES_FILE, duplicates)):
        if lines:
            (job.out / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    num_samples = sum(entry.num_samples for entry in entries)
    report = {"samples": num_samples, "skipped": len(skipped), "duplicates": len(duplicates), "plan": plan}
    (job.out / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n")
    write_dataset_file(job.out, entries, licence=job.licence)
    return report


def find_duplicates(shards: Iterable[Path]) -> list[dict[str, str]]:
    """Samples whose turns and image bytes equal those of an earlier one, by the checksums of the sidecars."""
    first: dict[str, str] = {}
    found = []
    for shard in shards:
        for row in read_rows(shard):
            if row.checksum and first.setdefault(row.checksum, row.key) != row.key:
                found.append({"key": row.key, "same_as": first[row.checksum]})
    return found
