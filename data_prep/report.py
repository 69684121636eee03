"""What `pack` says at its end: the columns that it read and did not read, and samples as they will be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.spec.cells import shown_name
from dragonfly_lit.spec.samples import Record, Turn

MAX_COLUMNS = 60
MAX_CHARS = 600
NUM_SAMPLES = 3


def column_table(columns: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Lines with the number of packed rows in which each column was read, was not, and was empty."""
    if not columns:
        return
    listed = sorted(columns.items(), key=lambda column: not _is_lost(column[1]))  # what was not read first
    width = max(len(shown_name(name)) for name, _ in listed[:MAX_COLUMNS])
    yield f"{'column':<{width}}  {'read':>9}  {'not read':>9}  {'empty':>9}"
    for name, counts in listed[:MAX_COLUMNS]:
        mark = "  <- never read" if _is_lost(counts) else ""
        yield (
            f"{shown_name(name):<{width}}  {counts['read']:>9,}  {counts['unread']:>9,}  {counts['empty']:>9,}{mark}"
        )
    if len(listed) > MAX_COLUMNS:
        yield f"and {len(listed) - MAX_COLUMNS} more columns"


def _is_lost(counts: Mapping[str, int]) -> bool:
    return counts["unread"] > 0 and not counts["read"]


def sample_texts(folder: Path) -> Iterator[str]:
    """The first, the middle and the last sample of a packed folder; what is learned stands between [[ and ]]."""
    shards = open_dataset(folder)
    places = sorted({0, (len(shards) - 1) // 2, len(shards) - 1})[:NUM_SAMPLES]
    yield f"{len(places)} of the samples; what is trained stands between [[ and ]]:"
    for place in places:
        yield from _sample(shards[place])


def _sample(record: Record) -> Iterator[str]:
    num = len(record.images)
    shared = " that its questions share" if record.share_image else ""
    yield f"{record.key}, {num} image{'s' * (num != 1)}{shared}"
    for turn in record.turns:
        yield f"  {turn.role}: {_said(turn)}"
    if record.rejected:
        yield f"  rejected: {_said(Turn(role='assistant', text=record.rejected))}"


def _said(turn: Turn) -> str:
    shown = turn.with_images("<image>") if turn.places else "<image> " * turn.num_images + turn.text
    text = shown if len(turn.text) <= MAX_CHARS else f"{shown[:MAX_CHARS]}... ({len(turn.text):,} characters)"
    # Nothing that a text holds reaches the terminal as a command of it.
    lines = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.split("\n")]
    told = "\n    ".join(lines)
    return f"[[{told}]]" if turn.role == "assistant" else told
