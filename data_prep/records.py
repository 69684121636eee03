"""Rows of a published format to records; a bad row ends the work or is written down, as the job says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from dragonfly_lit.processing.images import MAX_PIXELS
from dragonfly_lit.spec.cells import shown
from dragonfly_lit.spec.rows import MissingColumnError, Place, Row, RowError
from dragonfly_lit.spec.samples import Record, Turn

from .images import frames_of, load_image, read_image, size_of
from .job import Job
from .metadata import metadata_in
from .names import hashed
from .sources import SHARING, SOURCES, source
from .sources.boxes import with_objects
from .sources.conversations import label

NAMES = ("id", "question_ids")
"""Of what is kept beside a sample, what names it."""
WITHHELD = "not written, since names are hashed and a reason may hold one; --on-error raise says it"


def records_of(
    job: Job,
    start: int,
    rows: list[Any],
    skipped: list[dict[str, Any]],
    columns: dict[str, Counter[str]],
    metadata: Counter[str],
) -> Iterator[Record]:
    """The records of the good rows.

    Args:
        job: what is packed.
        start: number of the first row.
        rows: as the format reads them.
        skipped: a line for each row that is left out is added.
        columns: what became of the cells of each column is added.
        metadata: the number of images with each kind of it is added, where they keep it.

    Raises:
        ValueError: a row is bad under `on_error="raise"`.
    """
    for number, row in enumerate(rows, start):
        try:
            record = _record(job, number, row)
        except RowError as found:
            name, error = _name(row), _with_format(job, row, found) if not number else found
            if job.on_error == "raise":
                about = f"id {shown(name)}; " if name else ""
                raise ValueError(f"{error} ({about}--on-error skip leaves such rows out)") from error
            line = {key: value for key, value in asdict(error.place).items() if value is not None}
            skipped.append(line | _told(job, name, error))
            continue
        _count(row, columns)
        if not job.strip_metadata:
            for image in record.images:
                for kind in _kinds(image):
                    metadata[kind] += 1
        yield record


def _told(job: Job, name: str, error: RowError) -> dict[str, str]:
    """What is written down about a row that is left out; with hashed names nothing that the row itself says."""
    if job.salt is None:
        return {**({"id": shown(name)} if name else {}), "reason": error.reason}
    return {**({"id": hashed(name, job.salt)} if name else {}), "reason": WITHHELD}


def _with_format(job: Job, row: Row | list[Row] | RowError, error: RowError) -> RowError:
    """The error of a file's first row; where it lacks a column, with the format that reads such a row."""
    first = row[0] if isinstance(row, list) else row
    if not isinstance(error, MissingColumnError) or isinstance(first, RowError) or error.place != first.place:
        return error
    for form in SOURCES:
        fresh = Row(values=first.values, place=first.place)
        with suppress(RowError):
            source(form).conversation([fresh] if form in SHARING else fresh, job.options)
            return RowError(error.place, f"{error.reason} Such a row is read by --from {form}.")
    return error


def _kinds(image: bytes) -> tuple[str, ...]:
    try:
        return metadata_in(image)
    except ValueError:  # training will say so
        return ()


def _record(job: Job, number: int, row: Row | list[Row] | RowError) -> Record:
    if isinstance(row, RowError):
        raise row
    conversation = source(job.form).conversation(row, job.options)
    images, frames, sizes = [], [], {}
    for place, image in enumerate(conversation.images):
        try:
            data = read_image(image, job.images)
            found = frames_of(data, job.frames)
            images += [_image(job, data, frame) for frame in found]
            if conversation.objects and place in conversation.objects.images:
                sizes[place] = size_of(data)
        except (ValueError, OSError) as error:
            raise RowError(_place(row), _short(_naming(image, str(error)))) from error
        frames.append(len(found))
    turns = conversation.turns
    if conversation.objects:
        turns = with_objects(turns, conversation.objects, sizes)
    turns = _with_frames(turns, frames)
    meta = {**conversation.meta, **({"id": conversation.name} if conversation.name else {})}
    if job.salt is not None:
        meta |= {key: _hashed(meta[key], job.salt) for key in NAMES if key in meta}
    return Record(
        key=f"{job.source}-{number:08d}",
        source=job.source,
        licence=job.licence,
        turns=turns,
        images=tuple(images),
        share_image=conversation.share_image,
        rejected=conversation.rejected,
        meta=meta,
    )


def _image(job: Job, data: bytes, frame: int | None) -> bytes:
    return load_image(
        data,
        job.max_side,
        max_pixels=MAX_PIXELS if job.max_pixels is None else job.max_pixels,
        window=job.window,
        strip=job.strip_metadata,
        frame=frame,
        burned_in=job.burned_in,
    )


def _naming(image: str | bytes, told: str) -> str:
    """What is wrong with an image, which is named by its file where it has one."""
    return told if isinstance(image, bytes) or image in told else f"image {image}: {told.removeprefix('image ')}"


def _with_frames(turns: tuple[Turn, ...], frames: list[int]) -> tuple[Turn, ...]:
    """The turns, whose images are as many as the frames that were taken of them."""
    if sum(frames) == len(frames):
        return turns
    shown, made = iter(frames), []
    for turn in turns:
        counts = [next(shown) for _ in range(turn.num_images)]
        places = tuple(place for place, count in zip(turn.places, counts, strict=False) for _ in range(count))
        made.append(replace(turn, num_images=sum(counts), places=places))
    return tuple(made)


def _hashed(name: Any, salt: bytes) -> Any:
    return [_hashed(each, salt) for each in name] if isinstance(name, list) else hashed(str(name), salt)


def _short(text: str) -> str:
    """A reason on one line, however long the name of an image in it is."""
    text = " ".join(text.split())
    return text if len(text) < 500 else f"{text[:200]} ... {text[-200:]}"


def _place(row: Row | list[Row]) -> Place:
    return row[0].place if isinstance(row, list) else row.place


def _name(row: Row | list[Row] | RowError) -> str:
    """What the row calls itself."""
    first = row[0] if isinstance(row, list) else row
    if isinstance(first, RowError):
        return ""
    with suppress(RowError):
        return label(first, "id", "qid", "question_id")
    return ""


def _count(row: Row | list[Row], columns: dict[str, Counter[str]]) -> None:
    """Add what became of each cell of a packed row."""
    for each in row if isinstance(row, list) else [row]:
        for name, state in each.columns():
            counts = columns.get(name)
            if counts is None:
                counts = columns[name] = Counter()
            counts[state] = counts.get(state, 0) + 1  # `+=` of a Counter asks for what is missing by an exception
