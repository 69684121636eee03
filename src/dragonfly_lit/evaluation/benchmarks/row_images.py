"""The images of a row of a set of one's own: files beside the table or in a folder, or held by the row itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dragonfly_lit.evaluation.benchmarks.rows import IMAGES, ImageCell
from dragonfly_lit.evaluation.images import AnyImage, StoredImage, rendered, renderings
from dragonfly_lit.io.inside import OutsideError, inside
from dragonfly_lit.io.likely import likely
from dragonfly_lit.processing.dicom import Frames
from dragonfly_lit.spec.rows import Row


@dataclass(frozen=True, kw_only=True)
class RowImages:
    """Finds the images of rows, and makes pictures of what holds several or more than 8 bits.

    Attributes:
        folder: that images may lie in too; without it they lie in the table's.
        frames: of a DICOM file with several frames: `all`, `middle` or a number from 0.
        window: black and white of images of more than 8 bits.
    """

    folder: str | Path | None
    frames: Frames | None
    window: Sequence[float] | None

    def of(self, row: Row, cells: Sequence[ImageCell], beside: Path) -> Iterator[AnyImage]:
        """The images of a row, of each its frames.

        Args:
            row: as it was read.
            cells: what stands for its images.
            beside: the table's folder.

        Raises:
            RowError: there is no such image, it lies outside, or it is damaged.
        """
        for image, cell in zip(cells, row.images(*IMAGES), strict=True):
            yield from self._rendered(row, self._place(row, image, beside), cell)

    def _rendered(self, row: Row, place: Path | bytes | StoredImage, cell: str | bytes) -> Sequence[AnyImage]:
        """The images of a file or of the bytes in a cell: its frames, in the given window, or the image itself."""
        data = place if isinstance(place, Path) else cell
        assert not isinstance(data, str)  # a name is a file's
        window = None if self.window is None else (self.window[0], self.window[1])
        try:
            found = renderings(data, self.frames, window)
        except ValueError as error:
            where = f"{place}: " if isinstance(place, Path) else ""
            raise row.error(row.given(*IMAGES)[0], f"{where}{error}") from error
        return rendered(place, found)

    def _place(self, row: Row, image: ImageCell, beside: Path) -> Path | bytes | StoredImage:
        """Where an image is: a name means a file beside the manifest, or in the folder of `images`."""
        if not isinstance(image, str):
            return image
        name = row.given(*IMAGES)[0]
        allowed = None if self.folder is None else Path(self.folder)
        try:
            places = [inside(beside, image, allowed=allowed)] if allowed is None else _either(allowed, beside, image)
        except OutsideError as error:
            raise row.error(
                name, f"{error} The folder that it may lie in is given by benchmark.images=FOLDER."
            ) from error
        except ValueError as error:
            raise row.error(name, str(error)) from error
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            near = next(filter(None, (likely(folder, image) for folder in (allowed, beside) if folder)), "")
            raise row.error(name, f"there is no image {' and no '.join(map(str, places))}.{near}")
        return found


def _either(images: Path, beside: Path, name: str) -> list[Path]:
    """The places of a name in the folder of images, or else beside the manifest; each lies in one of the two."""
    try:
        first = [inside(images, name)]
    except OutsideError as outside:
        try:
            return [inside(beside, name, allowed=images)]
        except OutsideError:
            raise outside from None
    return [*first, *(place for place in [beside / name] if place.is_file() and inside(beside, name, allowed=images))]
