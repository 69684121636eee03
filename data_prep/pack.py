"""`pack`: a published data set, or your own images and texts, into shards; killed, it goes on where it was."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dragonfly_lit.io.amounts import count
from dragonfly_lit.io.parsers import add_pictures, window_of
from dragonfly_lit.io.text import counted
from dragonfly_lit.spec.row_files import num_rows
from dragonfly_lit.spec.table import COLUMNS, DIVIDING, check_shares

from .arguments import command_parser
from .dividing import pack_parts
from .job import Job
from .names import read_salt
from .parallel import num_workers
from .progress import progress_bar
from .report import column_table, sample_texts
from .sources import SOURCES, source
from .sources.conversations import Options
from .state import DUPLICATES_FILE, SKIPPED_FILE

STRIPPED = ("table", "vqa_rad", "slake", "path_vqa", "roco")
"""Formats of medical data, and of whatever a group has of its own."""


def parser() -> argparse.ArgumentParser:
    """The command line of `pack`."""
    formats = "\n".join(f"  {name:<11}{(source(name).__doc__ or '').splitlines()[0]}" for name in SOURCES)
    made = command_parser("pack", __doc__, epilog=f"formats:\n{formats}")
    made.add_argument("path", type=Path, metavar="IN", help="the file with the rows, or a folder of such files")
    made.add_argument("--from", dest="form", required=True, choices=SOURCES, metavar="FORMAT", help="see below")
    made.add_argument("--out", type=Path, required=True, help="folder of the shards")
    made.add_argument("--source", required=True, help="name of the data set; sample keys start with it")
    made.add_argument("--licence", required=True, help="licence of the data, kept with every sample")
    made.add_argument("--images", type=Path, help="folder of the images that the rows name")
    made.add_argument("--shard-size", type=count, default=1000, help="rows a shard (default: 1000)")
    made.add_argument(
        "--max-side", type=count, help="pixels; larger images are scaled down (default: copied as they are)"
    )
    made.add_argument(
        "--max-pixels", type=count, help="of an image that is decoded; a JPEG is decoded small (default: 89 million)"
    )
    add_pictures(
        made,
        ", which are stored with 8 (default: they are kept, and read from their smallest to their largest value)",
    )
    made.add_argument(
        "--split-by",
        metavar="COLUMN",
        help="divide into train, validation and test, a folder each: all rows with the same value of this column, a "
        "patient or a study, are in one of them; a column that names the parts is followed, `none` divides nothing "
        f"(default: none; of a table the first that is filled of {', '.join(DIVIDING)})",
    )
    made.add_argument(
        "--split-shares",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="of the values of that column (default: 80 10 10)",
    )
    made.add_argument(
        "--columns",
        nargs="+",
        default=[],
        type=_column,
        metavar="NAME=COLUMN",
        help="table: what is called how, such as question=Frage; the names are "
        f"{', '.join(COLUMNS)} (default: matched by their names)",
    )
    made.add_argument(
        "--burned-in",
        action="store_true",
        help="take DICOM files that say that words are burned into their pixels (default: they are refused)",
    )
    made.add_argument(
        "--strip-metadata",
        action=argparse.BooleanOptionalAction,
        help="leave out what images say besides their pixels: EXIF, XMP, texts, profiles, thumbnails (default: of "
        f"{', '.join(STRIPPED)}, and of DICOM always)",
    )
    made.add_argument(
        "--hash-names",
        type=Path,
        metavar="SALT",
        help="keep codes in place of ids and file names; SALT is a secret file, which is made where it is missing",
    )
    shared = made.add_mutually_exclusive_group()
    shared.add_argument(
        "--part",
        type=_deal,
        metavar="I/N",
        help="share the work among N machines: pack the I-th part of the shards, counted from 1; the last machine that "
        "ends makes the data set whole",
    )
    shared.add_argument(
        "--join",
        action="store_true",
        help="pack nothing: make one data set of parts that were packed elsewhere and copied into OUT",
    )
    made.add_argument("--workers", type=count, default=num_workers(), help="processes (default: %(default)s)")
    made.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help=f"stop at a bad row, or list it in {SKIPPED_FILE} and go on (default: raise)",
    )
    made.add_argument("--share-image", action="store_true", help="VQA: all questions about an image become one sample")
    made.add_argument("--split", choices=("train", "test", "all"), default="train", help="of vqa_rad (default: train)")
    made.add_argument("--language", choices=("en", "zh", "all"), default="en", help="of slake (default: en)")
    made.add_argument(
        "--image-column",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column with the row's image or images, in place of the format's own; may be given several times",
    )
    inside = made.add_mutually_exclusive_group()
    inside.add_argument(
        "--images-first",
        action="store_true",
        help="take rows with <image> inside a text: the image moves before it (default: such a row is refused)",
    )
    inside.add_argument(
        "--images-in-place",
        action="store_true",
        help="keep every image where its <image> stands, for model.images=in_place",
    )
    made.add_argument(
        "--boxes",
        choices=("text",),
        help="llava, messages, parquet: write the boxes and names of `objects` where <bbox> and <ref-object> stand, in "
        "whole numbers from 0 to 1,000 of the image's sides (default: such rows are refused)",
    )
    made.add_argument("--prompt", default=Options.prompt, help="captions: what the user says (default: %(default)s)")
    return made


def _deal(text: str) -> tuple[int, int]:
    numbers = text.split("/")
    if len(numbers) == 2 and all(each.isascii() and each.isdecimal() for each in numbers):
        number, of = map(int, numbers)
        if 1 <= number <= of:
            return number, of
    raise argparse.ArgumentTypeError(f"{text!r:.40} is not I/N, such as 1/8, with I from 1 to N")


def _column(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN, such as question=Frage")
    return name, column


def _columns(given: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """What is called how, where every name and every column is given once."""
    for named, what in enumerate(("name", "column")):
        said = [pair[named] for pair in given]
        if twice := next((each for each in said if said.count(each) > 1), None):
            pairs = " and ".join("=".join(pair) for pair in given if pair[named] == twice)
            raise ValueError(f"--columns {pairs}: the {what} {twice} is given twice. Give it once.")
    return tuple(given)


def main(argv: list[str]) -> int:
    """Pack, and say what came of it."""
    given = parser().parse_args(argv)
    strip = given.form in STRIPPED if given.strip_metadata is None else given.strip_metadata
    salt, made = read_salt(given.hash_names, given.out) if given.hash_names else (None, False)
    options = Options(
        split=given.split,
        language=given.language,
        share_image=given.share_image,
        prompt=given.prompt,
        image_columns=tuple(given.image_column),
        images_first=given.images_first,
        images_in_place=given.images_in_place,
        columns=_columns(given.columns),
        boxes=given.boxes or "",
    )
    job = Job(
        form=given.form,
        path=given.path,
        out=given.out,
        source=given.source,
        licence=given.licence,
        images=given.images or (_beside(given.path) if given.form == "table" else None),
        shard_size=given.shard_size,
        max_side=given.max_side,
        max_pixels=given.max_pixels,
        window=window_of(given.window),
        split_by=_split_by(given.split_by, given.form),
        shares=check_shares(given.split_shares, "--split-shares") if given.split_shares else None,
        deal=given.part,
        frames=given.frames,
        burned_in=given.burned_in,
        strip_metadata=strip,
        salt=salt,
        on_error=given.on_error,
        options=options,
    )
    if given.columns and given.form != "table":
        raise ValueError(f"--columns is for --from table; of {given.form} --image-column names the images.")
    if given.images is not None and not given.join and not given.images.is_dir():
        raise ValueError(f"--images {given.images}: there is no such folder.")
    with progress_bar() as progress:
        task = progress.add_task(f"packing {given.source}", total=num_rows(given.path))
        reports = pack_parts(
            job, workers=given.workers, on_progress=lambda rows: progress.advance(task, rows), joins=given.join
        )
    if made:
        print(f"{given.hash_names} holds the salt of their names: keep it, and keep it secret.")
    whole = {part: report for part, report in reports.items() if report is not None}
    if len(whole) < len(reports):
        number, of = given.part
        print(f"{given.out}: part {number}/{of} is packed. The last of the {of} makes the data set whole.")
        return 0
    for part, report in whole.items():
        _tell(report, given.out / part)
    if "" in reports and given.form == "table" and given.split_by is None:
        print("All of them are to train on: --split-by COLUMN, a patient or a study, keeps some to validate and test.")
    first = next(iter(whole))
    _show(whole[first], given.out / first)
    return 0


def _split_by(given: str | None, form: str) -> str | None:
    """The column that divides; None for a table's own, empty for none."""
    if given is None:
        return None if form == "table" else ""
    return "" if given == "none" else given


def _beside(path: Path) -> Path:
    """The folder of the images of a table that names none."""
    return path if path.is_dir() else path.parent


def _tell(report: dict[str, Any], out: Path) -> None:
    """What came of a folder of shards."""
    print(f"{out}: {counted(report['samples'], 'sample')}.")
    if kept := report.get("metadata"):
        kinds = ", ".join(f"{kind}: {number}" for kind, number in kept.items())
        print(f"Images keep what they say besides their pixels ({kinds}); --strip-metadata leaves it out.")
    if report.get("without_image"):
        print(f"Without an image, text only: {report['without_image']}.")
    if report["skipped"]:
        print(f"Rows left out: {report['skipped']}; {out / SKIPPED_FILE} says which and why.")
    if report["duplicates"]:
        print(f"Exact copies of other samples: {report['duplicates']}; {out / DUPLICATES_FILE} lists them.")


def _show(report: dict[str, Any], out: Path) -> None:
    """The columns of what was packed, and samples of it."""
    told = "\n".join(["", *column_table(report.get("columns", {})), "", *sample_texts(out)])
    encoding = sys.stdout.encoding or "utf-8"
    print(told.encode(encoding, "backslashreplace").decode(encoding))  # whatever the terminal can show
