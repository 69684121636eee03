"""Questions about the same image, wherever they stand in a file, in one sample: images are compared by content."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from dragonfly_lit.spec.rows import Row, RowError

from .images import find_image

STAND_IN = "(the image of another row)"
"""In the place of an image that many rows share and one of them brings."""

Rows = Iterable[Row | RowError]


def share_images(
    rows: Callable[[], Rows], cells: Callable[[Row], Sequence[str]], folder: Path | None
) -> Iterator[list[Row] | RowError]:
    """Rows in lists, those with the same images together.

    Where rows name their images, a list stands at the place of its first row. Where they bring them, it stands at the
    place of its last one: the rows are read twice, once to count how many have the same images, so that no image is
    kept while the others of its list are waited for.

    Args:
        rows: reads the rows from the start.
        cells: names of the cells of a row where its images are.
        folder: of images that rows name.
    """
    shown = _Shown(cells, folder)
    left = Counter(key for row in rows() if isinstance(row, Row) and (key := shown.key(row)))
    yield from _at_last(rows(), shown, left) if shown.brought else _at_first(rows(), shown)


def _at_first(rows: Rows, shown: _Shown) -> Iterator[list[Row] | RowError]:
    found: dict[bytes | int, list[Row] | RowError] = {}
    for number, row in enumerate(rows):
        if isinstance(row, RowError):
            found[number] = row
        else:
            same = found.setdefault(shown.key(row) or number, [])
            assert isinstance(same, list)
            same.append(row)
    yield from found.values()


def _at_last(rows: Rows, shown: _Shown, left: Counter[bytes]) -> Iterator[list[Row] | RowError]:
    waiting: dict[bytes, list[Row]] = {}
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        key = shown.key(row)
        if not key:
            yield [row]
            continue
        left[key] -= 1
        found = waiting.setdefault(key, [])
        if left[key]:
            found.append(_without_images(row, shown.cells(row)))
        else:
            del waiting[key], left[key]
            yield _with_images([*found, row], shown.cells)


class _Shown:
    """What the images of rows are, by their content."""

    def __init__(self, cells: Callable[[Row], Sequence[str]], folder: Path | None):
        self.cells, self.folder = cells, folder
        self.of_names: dict[str, bytes] = {}
        self.brought = False
        """Whether a row was seen that holds an image itself."""

    def key(self, row: Row) -> bytes:
        """Equal for rows with the same images; empty where there are none, or none that can be read."""
        try:
            images = [image for name in row.given(*self.cells(row)) for image in row.images(name)]
        except RowError:  # told when the row is packed
            return b""
        if not images:
            return b""
        return hashlib.sha256(b"".join(map(self._digest, images))).digest()

    def _digest(self, image: str | bytes) -> bytes:
        if isinstance(image, bytes):
            self.brought = True
            return hashlib.sha256(image).digest()
        if image not in self.of_names:
            try:
                with find_image(image, self.folder).open("rb") as file:
                    self.of_names[image] = hashlib.file_digest(file, "sha256").digest()
            except (ValueError, OSError):  # told when the row is packed
                self.of_names[image] = hashlib.sha256(image.encode("utf-8", "surrogatepass")).digest()
        return self.of_names[image]


def _without_images(row: Row, cells: Sequence[str]) -> Row:
    kept = {name: STAND_IN if name in row.given(*cells) else value for name, value in row.values.items()}
    return Row(values=kept, place=row.place, called=row.called)


def _with_images(rows: list[Row], cells: Callable[[Row], Sequence[str]]) -> list[Row]:
    """The rows, the first of which has the images that the last has brought."""
    first, last = rows[0], rows[-1]
    if first is not last:
        images = {name: last.values[name] for name in last.given(*cells(last))}
        bare = {name: None if name in cells(first) else value for name, value in first.values.items()}
        rows = [Row(values={**bare, **images}, place=first.place, called=first.called), *rows[1:]]
    return rows
