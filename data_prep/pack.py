"""`pack`: a published data set, or your own images and texts, into shards; killed, it goes on where it was."""

from __future__ import annotations

import argparse
import sys
from math import inf
from pathlib import Path

from dragonfly_lit.processing.images import Window

from .arguments import command_parser
from .job import Job
from .names import read_salt
from .packing import DUPLICATES_FILE, SKIPPED_FILE, pack
from .parallel import num_workers
from .progress import progress_bar
from .report import column_table, sample_texts
from .sources import SOURCES, source
from .sources.conversations import Options
from .sources.files import num_rows

STRIPPED = ("vqa_rad", "slake", "path_vqa", "roco")
"""Formats of medical data."""


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
    made.add_argument("--shard-size", type=int, default=1000, help="rows a shard (default: 1000)")
    made.add_argument(
        "--max-side", type=int, help="pixels; larger images are scaled down (default: copied as they are)"
    )
    made.add_argument(
        "--max-pixels", type=_pixels, help="of an image that is decoded; a JPEG is decoded small (default: 89 million)"
    )
    made.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="black and white of images of more than 8 bits, which are stored with 8 (default: they are kept, and read "
        "from their smallest to their largest value)",
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
    made.add_argument("--workers", type=int, default=num_workers(), help="processes (default: %(default)s)")
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
    made.add_argument(
        "--images-first",
        action="store_true",
        help="take rows with <image> inside a text: the image moves before it (default: such a row is refused)",
    )
    made.add_argument(
        "--images-in-place",
        action="store_true",
        help="keep every image where its <image> stands, for model.images=in_place",
    )
    made.add_argument("--prompt", default=Options.prompt, help="captions: what the user says (default: %(default)s)")
    return made


def _window(given: list[float] | None) -> Window | None:
    if given is None:
        return None
    low, high = given
    if not -inf < low < high < inf:
        raise ValueError(f"--window {low:g} {high:g}: give two numbers, black below white.")
    return low, high


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels, 1 or more")
    return int(text)


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
    )
    job = Job(
        form=given.form,
        path=given.path,
        out=given.out,
        source=given.source,
        licence=given.licence,
        images=given.images,
        shard_size=given.shard_size,
        max_side=given.max_side,
        max_pixels=given.max_pixels,
        window=_window(given.window),
        strip_metadata=strip,
        salt=salt,
        on_error=given.on_error,
        options=options,
    )
    with progress_bar() as progress:
        task = progress.add_task(f"packing {given.source}", total=num_rows(given.path))
        report = pack(job, workers=given.workers, on_progress=lambda rows: progress.advance(task, rows))
    print(f"{given.out}: {report['samples']} samples.")
    if made:
        print(f"{given.hash_names} holds the salt of their names: keep it, and keep it secret.")
    if kept := report.get("metadata"):
        kinds = ", ".join(f"{kind}: {number}" for kind, number in kept.items())
        print(f"Images keep what they say besides their pixels ({kinds}); --strip-metadata leaves it out.")
    if report.get("without_image"):
        print(f"{report['without_image']} of them have no image: they are text only.")
    if report["skipped"]:
        print(f"Rows left out: {report['skipped']}; {given.out / SKIPPED_FILE} says which and why.")
    if report["duplicates"]:
        print(f"{report['duplicates']} samples are exact copies of others: {given.out / DUPLICATES_FILE} lists them.")
    told = "\n".join(["", *column_table(report.get("columns", {})), "", *sample_texts(given.out)])
    encoding = sys.stdout.encoding or "utf-8"
    print(told.encode(encoding, "backslashreplace").decode(encoding))  # whatever the terminal can show
    return 0
