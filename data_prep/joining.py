"""Several machines share the packing of one data set: each packs the shards dealt to it, and the last makes it whole.

Which shards are whose follows from their numbers alone, so every machine reads the rows and nobody need count them
first. Each has its own `.pack-2-of-8/`, its own lock and the same plan. The folder that they make together is, file for
file, the one that a single machine makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dragonfly_lit.io import atomic
from dragonfly_lit.io.lock import LOCK_FILE, PATIENCE_SECONDS, in_use
from dragonfly_lit.spec.shard import DATASET_FILE

from .job import Job
from .packing import check_job, conclude, finished, pack_shards, working_in, write_card
from .sharing import Rows
from .state import DONE_FILE, PLAN_FILE, STATE_FOLDER, begin, changes, clear, dealt_folders, read_plan

Deal = tuple[int, int]
JOINING_SECONDS = 3600.0
"""How long one of two machines that end together waits for the other to make the data set whole."""


def pack_part(
    job: Job, *, workers: int, on_progress: Callable[[int], None], keep: Callable[[Rows], Rows]
) -> dict[str, Any] | None:
    """Pack what was dealt to this machine; the report of all where it was the last, else None.

    Args:
        job: what to pack, and what of it is dealt to this machine.
        workers: processes.
        on_progress: called with the number of rows of each shard as it is done or passed over.
        keep: the rows that are packed of those that are read.

    Raises:
        ValueError: as `packing.pack` does; or another machine packs the same part, or shares the work otherwise.
    """
    check_job(job)
    plan = job.plan()
    if not (job.out / DATASET_FILE).is_file():
        with working_in(job.out, job.state):
            if not (job.state / DONE_FILE).is_file() or read_plan(job.state / PLAN_FILE) != plan:
                _begin(job, plan)
                seen = pack_shards(job, workers, on_progress, keep)
                atomic.write(job.state / DONE_FILE, json.dumps(seen))
    return joined(job)


def joined(job: Job) -> dict[str, Any] | None:
    """The report of all, joined if need be; None where a part is not done yet."""
    return None if _missing(job) else join(job, JOINING_SECONDS)


def join(job: Job, patience: float = PATIENCE_SECONDS) -> dict[str, Any]:
    """Make one data set of the parts that machines have packed, in the folder in which all of them lie; its report.

    Args:
        job: what was packed.
        patience: seconds to wait for another machine that does the same.

    Raises:
        ValueError: a part is missing or not done, or they are not parts of one pack.
    """
    check_job(job)
    plan, alone = job.plan(), replace(job, deal=None)
    with working_in(job.out, job.out, patience):
        dealt = dealt_folders(job.out)
        if (job.out / DATASET_FILE).is_file():  # it was joined, or a run was killed as it ended
            report = finished(alone, plan)
        else:
            if missing := _missing(job):
                raise ValueError(f"--out {job.out} lacks {missing}. Pack it with the same command and --part.")
            _check_one_pack(job.out, plan, dealt)
            alone.state.mkdir(exist_ok=True)
            report = conclude(alone, plan, dealt.values())
        alone.state.mkdir(exist_ok=True)
        write_card(alone, report)
        for state in (*dealt.values(), alone.state):
            clear(state)
            _clear_lock(state)
    return report


def _begin(job: Job, plan: dict[str, Any]) -> None:
    """Begin, or go on, with this machine's part, where it shares the work with the others that are at it."""
    assert job.deal is not None
    if (job.out / STATE_FOLDER).exists():
        raise ValueError(
            f"--out {job.out} holds a run without --part that was stopped. Go on without --part, or choose another "
            "folder."
        )
    others = {deal: state for deal, state in dealt_folders(job.out).items() if deal != job.deal}
    _check_others(job, plan, others)
    begin(job.state, plan, beside=bool(others))
    try:  # another machine may have begun at the same moment
        _check_others(job, plan, {deal: state for deal, state in dealt_folders(job.out).items() if deal != job.deal})
    except ValueError:
        clear(job.state)
        raise


def _check_others(job: Job, plan: dict[str, Any], others: Mapping[Deal, Path]) -> None:
    assert job.deal is not None
    for (number, of), state in others.items():
        there = read_plan(state / PLAN_FILE)
        if not there:  # it is just beginning, and will look for this one
            continue
        told = [f"it shares the work among {of}"] if of != job.deal[1] else changes(there, plan)
        if told:
            raise ValueError(
                f"--out {job.out} holds part {number}/{of} of another pack: {'; '.join(told)}. Give every machine the "
                "same arguments and files, or choose another folder."
            )


def _missing(job: Job) -> str:
    """Which parts are not there or not done, in words; empty where all are, or the data set is whole already."""
    if (job.out / DATASET_FILE).is_file():
        return ""
    dealt = dealt_folders(job.out)
    if not dealt:
        return "every part"
    of = next(iter(dealt))[1]
    told = []
    for number in range(1, of + 1):
        state = dealt.get((number, of))
        if state is None:
            told.append(f"part {number}/{of}")
        elif not (state / DONE_FILE).is_file():
            who = in_use(state)
            told.append(f"part {number}/{of}, which " + (f"{who} packs" if who else "was stopped"))
    return " and ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")


def _check_one_pack(out: Path, plan: dict[str, Any], dealt: Mapping[Deal, Path]) -> None:
    """ValueError unless the parts are of this pack, saw the same rows, and every shard of them is there."""
    if len(shared := {of for _, of in dealt}) > 1:
        told = " and of ".join(map(str, sorted(shared)))
        raise ValueError(f"--out {out} holds parts of {told} machines. Take those of one pack away.")
    seen = {}
    for (number, of), state in dealt.items():
        if told := changes(read_plan(state / PLAN_FILE), plan):
            raise ValueError(f"--out {out}: part {number}/{of} is of another pack: {'; '.join(told)}.")
        seen[number, of] = json.loads((state / DONE_FILE).read_text())
        marks = sum(1 for _ in state.glob("[0-9]*.json"))
        if marks != len(range(number - 1, seen[number, of]["shards"], of)):
            raise ValueError(
                f"--out {out}: {state.name} does not have a mark of every shard. Pack part {number} again."
            )
    (first, found), *others = seen.items()
    for (number, of), each in others:
        if each != found:
            raise ValueError(
                f"--out {out}: part {first[0]}/{first[1]} has seen {found['rows']} rows and part {number}/{of} "
                f"{each['rows']}. They are not parts of one pack: pack all of them again from the same files."
            )


def _clear_lock(state: Path) -> None:
    """Take away what a killed machine has left of its lock, and with it the folder."""
    with suppress(OSError):
        (state / LOCK_FILE).unlink(missing_ok=True)
        state.rmdir()
