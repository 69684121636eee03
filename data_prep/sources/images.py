"""Which cells of a row are its images, and what a row looks like whose images nobody read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.unread import check_no_images

BY_COLUMN = "Name it with --image-column, or take the column away."
"""What to do about a column with images that is not read."""
_NUMBERED_TAG = re.compile(r"<image[ _-]?(\d{1,4})>", re.IGNORECASE)


def image_cells(row: Row, columns: Sequence[str], *names: str) -> list[str]:
    """The cells of a row where its images are: of the user's own `columns`, or the format's `names`."""
    return [row.cell_of(column) for column in columns] or list(names)


def images_of(row: Row, columns: Sequence[str], *names: str) -> list[str | bytes]:
    """The images of a row: those in the columns that the command line names, else in the format's own `names`."""
    if not columns:
        return row.images(*names)
    return [image for name in image_cells(row, columns) for image in row.images(name)]


def check_images(row: Row, texts: Iterable[str], images: Sequence[str | bytes]) -> None:
    """Raise where a text speaks of an image, or a cell that was not read looks like one, that the row would lack.

    Args:
        row: after its converter read it.
        texts: what the user and the system say.
        images: that were read.
    """
    for inner in chain.from_iterable(row.inner.values()):
        check_images(inner, (), images)
    check_no_images(row, BY_COLUMN, has_images=bool(images))
    tags = [int(number) for text in texts for number in _NUMBERED_TAG.findall(text)]
    if tags and max(tags) > len(images):
        raise RowError(row.place, f"a text speaks of image {max(tags)}, and the row has {len(images)} images.")
