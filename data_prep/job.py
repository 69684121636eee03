"""What is packed, from where, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dragonfly_lit.processing.dicom import Frames
from dragonfly_lit.processing.images import Window
from dragonfly_lit.spec.row_files import row_files
from dragonfly_lit.spec.table import SHARES

from .names import hashed
from .sources.conversations import Options
from .state import state_folder


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
        split_by: the column that divides the rows; None the first of a table's own, empty none.
        shares: of its values, to train on, to validate and to test; None are `SHARES`.
        part: of the divided rows, those that are packed; empty where they are not divided.
        deal: which of how many machines packs, counted from 1; None is the only one.
        frames: of a DICOM file with several, those that become images; None refuses it.
        burned_in: whether DICOM files are taken that say that words are burned into their pixels.
        strip_metadata: whether images lose what they say besides their pixels.
        salt: names of rows are hashed with it; None keeps them.
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
    split_by: str | None = ""
    shares: tuple[float, float, float] | None = None
    part: str = ""
    deal: tuple[int, int] | None = None
    frames: Frames | None = None
    burned_in: bool = False
    strip_metadata: bool = False
    salt: bytes | None = field(default=None, repr=False)
    on_error: Literal["raise", "skip"] = "raise"
    options: Options = field(default_factory=Options)

    def _division(self) -> dict[str, Any]:
        return {"split_by": self.split_by, "shares": list(self.shares or SHARES), "part": self.part}

    @property
    def state(self) -> Path:
        """Where this run keeps what is not finished."""
        return state_folder(self.out, self.deal)

    def plan(self) -> dict[str, Any]:
        """What must be the same when a killed run goes on; an input file is known by its size and time."""
        inputs = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in _input_files(self)]
        if_given = {  # what is not asked for is left out, as it was before it could be asked for
            "max_pixels": self.max_pixels,
            "window": self.window and list(self.window),
            **(
                {"split_by": self.split_by, "shares": list(self.shares or SHARES), "part": self.part}
                if self.part
                else {}
            ),
            "frames": self.frames,
            "burned_in": self.burned_in or None,
            "strip_metadata": self.strip_metadata or None,
            "names_hashed_with": None if self.salt is None else hashed("the salt", self.salt),
        }
        return {
            "from": self.form,
            "inputs": inputs,
            "source": self.source,
            "licence": self.licence,
            "shard_size": self.shard_size,
            "max_side": self.max_side,
            **{key: value for key, value in if_given.items() if value is not None},
            "options": self.options.plan(),
        }


def _input_files(job: Job) -> list[Path]:
    if job.form == "roco" and job.path.suffix == ".txt" and job.path.is_file():
        return [job.path]
    return row_files(job.path)
