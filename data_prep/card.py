"""The data card that `pack` writes beside `dataset.json`: what is in a folder of shards, on a page and in a picture."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from dragonfly_lit.data.dataset import open_dataset
from dragonfly_lit.data.index import read_rows
from dragonfly_lit.data.scan import Row
from dragonfly_lit.data.shards import Shards
from dragonfly_lit.io.text import counted
from dragonfly_lit.processing.images import MAX_PIXELS, decode
from dragonfly_lit.spec.cells import shown_name

from .state import DUPLICATES_FILE, SHEET_FILE, SKIPPED_FILE

TILE, COLUMNS, LINES = 160, 6, 4
"""Of the contact sheet: side of a picture in pixels, pictures beside and below one another."""
MAX_COLUMNS = 60
"""Columns of the table that are listed."""
PAPER, INK = (250, 250, 250), (150, 150, 150)
SETTINGS = {
    "shard_size": "--shard-size", "max_side": "--max-side", "max_pixels": "--max-pixels", "window": "--window",
    "frames": "--frames", "burned_in": "--burned-in", "strip_metadata": "--strip-metadata",
    "names_hashed_with": "--hash-names",
}  # fmt: skip
"""Of a run's plan, what a reader wants to know of how the images and names were treated."""
FLAGS = ("burned_in", "strip_metadata", "names_hashed_with")
"""Those of which it is enough that they were given: the code of a salt is nobody's concern."""


def data_card(folder: Path, report: Mapping[str, Any], *, max_pixels: int | None = None) -> tuple[str, bytes | None]:
    """The card of a packed folder in Markdown, and its contact sheet as JPEG; None where no sample has an image.

    Args:
        folder: of the shards.
        report: what `pack` has found.
        max_pixels: of an image that is drawn.
    """
    shards = open_dataset(folder)
    tally = Tally(read_rows(folder / entry.name) for entry in shards.entries)
    sheet = contact_sheet(shards, tally.shown, max_pixels=max_pixels or MAX_PIXELS)
    return "\n".join(_lines(shards, tally, report, has_sheet=sheet is not None)) + "\n", sheet


class Tally:
    """What the card says of all samples, counted by shard; of each sample one number is held: there may be millions.

    Args:
        of_shards: what the sidecar of each shard says of its samples.

    Attributes:
        shown: by shard, how many samples have an image.
        images: of all samples.
        shared: samples whose questions share an image.
        turns: how many samples have so many.
        characters: the same.
        widths: of the first image, in how many samples.
        heights: the same.
        different: images, those of a sample taken together.
    """

    def __init__(self, of_shards: Iterable[list[Row]]) -> None:
        self.shown: list[int] = []
        self.images = self.shared = 0
        self.turns, self.characters, self.widths, self.heights = (Counter[int]() for _ in range(4))
        checksums = array("Q")
        for rows in of_shards:
            shown = [row for row in rows if row.num_images]
            self.shown.append(len(shown))
            self.images += sum(row.num_images for row in rows)
            self.shared += sum(row.share_image for row in rows)
            self.turns.update(row.turns for row in rows)
            self.characters.update(row.chars for row in rows)
            self.widths.update(row.width for row in shown)
            self.heights.update(row.height for row in shown)
            checksums.extend(int(row.image_checksum or "0", 16) for row in shown)
        ordered = np.frombuffer(checksums, np.uint64) if checksums else np.empty(0, np.uint64)
        ordered.sort()  # in its place
        self.different = min(1, len(ordered)) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _lines(shards: Shards, tally: Tally, report: Mapping[str, Any], *, has_sheet: bool) -> Iterator[str]:
    plan = report["plan"]
    yield from (f"# {_cell(plan['source'])}", "")
    yield f"{report['samples']:,} samples to train a vision-language model on, packed by `data_prep pack`."
    yield from ("", "| | |", "|---|---|")
    facts = {**_origin(plan), **_counts(shards, tally, report), **_settings(plan)}
    yield from (f"| {name} | {_cell(value)} |" for name, value in facts.items())
    if has_sheet:
        yield from ("", "## Pictures", "", f"![Images of samples, spread evenly over the shards]({SHEET_FILE})")
    if columns := report.get("columns"):
        yield from ("", "## Columns of the rows", "", "| column | read | not read | empty |", "|---|---|---|---|")
        for name, counts in list(columns.items())[:MAX_COLUMNS]:
            said = " | ".join(f"{counts[state]:,}" for state in ("read", "unread", "empty"))
            yield f"| {_cell(shown_name(name))} | {said} |"
        if len(columns) > MAX_COLUMNS:
            yield f"| and {len(columns) - MAX_COLUMNS} more | | | |"


def _origin(plan: Mapping[str, Any]) -> dict[str, str]:
    files = [f"{name} ({size:,} bytes)" for name, size, *_ in plan["inputs"]]
    more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
    return {
        "licence, as it was given to `pack`": plan["licence"],
        "made of": f"{', '.join(files[:5])}{more}, read as --from {plan['from']}",
    }


def _counts(shards: Shards, tally: Tally, report: Mapping[str, Any]) -> dict[str, str]:
    num_bytes = sum(entry.num_bytes for entry in shards.entries)
    found = {"shards": f"{len(shards.entries):,}, {num_bytes / 1e6:,.1f} MB"}
    shown = sum(tally.shown)
    with_image, without = counted(shown, "sample"), report["without_image"]
    found["images"] = f"{tally.images:,} in {with_image}, and {without:,} without an image"
    if shown:
        found["different images"] = f"{tally.different:,}, a sample's taken together"
        found["width x height of the first image"] = ", ".join(
            f"{name} {width:,} x {height:,}"
            for name, width, height in zip(
                ("least", "median", "most"), spread(tally.widths), spread(tally.heights), strict=True
            )
        )
    found["turns of a sample"] = _spread(tally.turns)
    found["characters of a sample"] = _spread(tally.characters)
    if tally.shared:
        found["samples whose questions share an image"] = f"{tally.shared:,}"
    found["exact copies of other samples"] = _listed(report["duplicates"], DUPLICATES_FILE)
    found["rows left out"] = _listed(report["skipped"], SKIPPED_FILE)
    if kept := report.get("metadata"):
        found["images that say more than their pixels"] = ", ".join(f"{kind}: {n:,}" for kind, n in kept.items())
    return found


def _settings(plan: Mapping[str, Any]) -> dict[str, str]:
    asked = [
        option if key in FLAGS else f"{option} {_value(plan[key])}"
        for key, option in SETTINGS.items()
        if plan.get(key) is not None
    ]
    found = {"packed with": ", ".join(asked)}
    if plan.get("part"):
        found["part"] = f"{plan['part']}, divided by {plan['split_by']}"
    return found


def _value(value: Any) -> str:
    return " ".join(f"{each:g}" for each in value) if isinstance(value, list) else str(value)


def _spread(counts: Counter[int]) -> str:
    least, median, most = (f"{value:,}" for value in spread(counts))
    return f"least {least}, median {median}, most {most}; {sum(n * number for n, number in counts.items()):,} in all"


def spread(counts: Counter[int]) -> tuple[int, int, int]:
    """Least, median and most of the values that were counted; between two middle ones, what lies between them."""
    values = sorted(counts)
    ends = list(accumulate(counts[value] for value in values))
    below, above = (values[bisect_right(ends, place)] for place in ((ends[-1] - 1) // 2, ends[-1] // 2))
    return values[0], (below + above) // 2, values[-1]


def _listed(number: int, file: str) -> str:
    return f"{number:,}, listed in {file}" if number else "none"


def _cell(value: Any) -> str:
    """A text in a cell of a table: one line in which nothing is markup."""
    text = " ".join(str(value).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("[", "&#91;"), ("`", "&#96;")):
        text = text.replace(mark, safe)
    return text.replace("*", "&#42;").replace("_", "&#95;").replace("!", "&#33;") or "not stated"


def contact_sheet(shards: Shards, shown: list[int], *, max_pixels: int = MAX_PIXELS) -> bytes | None:
    """The first images of samples that are spread evenly over the shards, as one JPEG; None where none has an image.

    Args:
        shards: the samples.
        shown: by shard, how many samples have an image.
        max_pixels: of an image that is drawn.
    """
    ends = list(accumulate(shown))
    if not ends or not ends[-1]:
        return None
    number = min(COLUMNS * LINES, ends[-1])
    chosen = _places(shards, ends, [n * ends[-1] // number for n in range(number)])
    across = min(COLUMNS, number)
    sheet = Image.new("RGB", (across * TILE, -(-number // across) * TILE), PAPER)
    for n, place in enumerate(chosen):
        tile = _tile(shards, place, max_pixels)
        left, top = n % across * TILE, n // across * TILE
        sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))
    out = BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return out.getvalue()


def _places(shards: Shards, ends: list[int], numbers: list[int]) -> list[int]:
    """Which samples are those of these rising numbers among the ones that have an image."""
    found: list[int] = []
    for shard, end in enumerate(ends):
        start = ends[shard - 1] if shard else 0
        if wanted := [number - start for number in numbers if start <= number < end]:
            before = sum(entry.num_samples for entry in shards.entries[:shard])
            rows = read_rows(Path(shards.path) / shards.entries[shard].name)
            with_image = [place for place, row in enumerate(rows) if row.num_images]
            found += [before + with_image[number] for number in wanted]
    return found


def _tile(shards: Shards, place: int, max_pixels: int) -> Image.Image:
    side = TILE - 8
    try:
        image = decode(shards[place].images[0], max_pixels=max_pixels, max_side=side)
        return ImageOps.contain(image, (side, side), Image.Resampling.LANCZOS)
    except ValueError:  # `pack` reads headers only; `lint` says what is wrong
        tile = Image.new("RGB", (side, side), PAPER)
        draw = ImageDraw.Draw(tile)
        draw.rectangle((0, 0, side - 1, side - 1), outline=INK)
        draw.text((side // 2, side // 2), "cannot be read", fill=INK, anchor="mm")
        return tile
