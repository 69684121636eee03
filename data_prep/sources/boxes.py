"""Boxes and points of a row, as ms-swift's `objects` has them, to words of its turns: `--boxes text`.

`<bbox>` becomes a box, `[left, top, right, bottom]`, or a point, `[x, y]`, and `<ref-object>` a name, in the order in
which they stand. A coordinate is a whole number from 0 to 1,000, of the image's width or height.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import floor, isfinite
from typing import Any

from dragonfly_lit.spec.rows import Row
from dragonfly_lit.spec.samples import Turn

OBJECTS, BOX, NAME = "objects", "<bbox>", "<ref-object>"
SCALE = 1000
UNITS = ("real", "norm1")
"""What coordinates are given in: pixels of the image as it was given, or shares of its sides."""
_FIELDS = ("ref", "bbox", "image_id", "bbox_type")
_TAG = re.compile(f"{BOX}|{NAME}")


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What the tags of a conversation stand for.

    Attributes:
        row: that says so, `objects` itself.
        names: of the `<ref-object>`.
        boxes: of the `<bbox>`, of 4 numbers, or of 2 for a point.
        images: numbers of their images in the row, from 0.
        unit: one of `UNITS`.
    """

    row: Row
    names: tuple[str, ...] = ()
    boxes: tuple[tuple[int | float, ...], ...] = ()
    images: tuple[int, ...] = ()
    unit: str = UNITS[0]


def objects_of(row: Row, turns: Sequence[Turn], num_images: int) -> Objects:
    """The boxes and names of a row, as many as there are tags in its turns.

    Args:
        row: whose `objects` they are; it may have none.
        turns: of the row.
        num_images: of the row.

    Raises:
        RowError: `objects` is something else, its lists and the tags differ in number, or a box is of no image.
    """
    given = row.raw(OBJECTS) if row.has(OBJECTS) else {}
    if not isinstance(given, Mapping):
        raise row.wrong(OBJECTS, given, f"a struct of {', '.join(_FIELDS)}")
    inner = Row(values=given, place=row.place, prefix=f"{row.prefix}{OBJECTS}.")
    row.inner[OBJECTS] = [inner] if given else []
    for name in inner.given(*map(str, given)):
        if name not in _FIELDS:
            raise inner.error(name, f"is not known, and would be lost: {OBJECTS} has {', '.join(_FIELDS)}.")
    names = tuple(inner.check_text(f"ref[{n}]", each) for n, each in enumerate(_list(inner, "ref")))
    boxes = tuple(_numbers(inner, f"bbox[{n}]", each) for n, each in enumerate(_list(inner, "bbox")))
    tags = [tag for turn in turns for piece in _pieces(turn) for tag in _TAG.findall(piece)]
    for name, found, tag in (("ref", names, NAME), ("bbox", boxes, BOX)):
        if len(found) != tags.count(tag):
            raise inner.error(name, f"{len(found)} are given for {tags.count(tag)} {tag} in the text; give as many.")
    unit = inner.text_or(UNITS[0], "bbox_type")
    if unit not in UNITS:
        raise inner.wrong("bbox_type", unit, f"one of {', '.join(UNITS)}")
    return Objects(row=inner, names=names, boxes=boxes, images=_images(inner, len(boxes), num_images), unit=unit)


def with_objects(turns: Sequence[Turn], objects: Objects, sizes: Mapping[int, tuple[int, int]]) -> tuple[Turn, ...]:
    """The turns with words in place of their tags; images inside of them stay between the same words.

    Args:
        turns: of a conversation.
        objects: as `objects_of` gives them.
        sizes: width and height of the images that have boxes.

    Raises:
        RowError: a box is outside of its image, or its sides are not in order.
    """
    boxes = (_written(objects, number, sizes[image]) for number, image in enumerate(objects.images))
    words = {NAME: iter(objects.names), BOX: boxes}  # in the order of their tags
    return tuple(_with_words(turn, words) for turn in turns)


def _with_words(turn: Turn, words: Mapping[str, Iterator[str]]) -> Turn:
    pieces = [_TAG.sub(lambda tag: next(words[tag[0]]), _apart(piece)) for piece in _pieces(turn)]
    places = tuple(accumulate(map(len, pieces[:-1]))) if turn.places else ()
    return replace(turn, text="".join(pieces), places=places)


def _pieces(turn: Turn) -> list[str]:
    """The text of a turn between its images: no tag goes over one."""
    return [turn.text[start:end] for start, end in pairwise((0, *turn.places, len(turn.text)))]


def _apart(text: str) -> str:
    """A comma between tags of boxes that touch."""
    return re.sub(f"{BOX}(?={BOX})", f"{BOX}, ", text)


def _written(objects: Objects, number: int, size: tuple[int, int]) -> str:
    """A box in whole numbers: x is `floor(1000 x / width + 1/2)`, reckoned without a rounding error."""
    box, name = objects.boxes[number], f"bbox[{number}]"
    ends = (1, 1) if objects.unit == "norm1" else size
    told = f"of an image of {size[0]}x{size[1]} pixels"
    if any(not 0 <= value <= ends[place % 2] for place, value in enumerate(box)):
        limits = f"x from 0 to {ends[0]} and y from 0 to {ends[1]}"
        raise objects.row.wrong(name, list(box), f"{limits} ({objects.unit}, {told})")
    if len(box) == 4 and not (box[0] < box[2] and box[1] < box[3]):
        raise objects.row.wrong(name, list(box), f"left below right and top below bottom ({told})")
    whole = (floor(Fraction(value) * SCALE / ends[place % 2] + Fraction(1, 2)) for place, value in enumerate(box))
    return f"[{', '.join(map(str, whole))}]"


def _list(row: Row, name: str) -> Sequence[Any]:
    value = row.raw(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise row.wrong(name, value, "a list")
    return value


def _numbers(row: Row, name: str, value: Any) -> tuple[int | float, ...]:
    numbers = isinstance(value, list | tuple) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and (isinstance(each, int) or isfinite(each))
        for each in value
    )
    if not numbers or len(value) not in (2, 4):
        raise row.wrong(name, value, "4 numbers (left, top, right, bottom), or 2 of a point (x, y)")
    return tuple(value)


def _images(row: Row, num_boxes: int, num_images: int) -> tuple[int, ...]:
    """Of which image each box is."""
    given = _list(row, "image_id")
    if num_boxes and not num_images:
        raise row.error("bbox", "boxes of a row without an image.")
    if not given and num_images <= 1:
        return (0,) * num_boxes
    if len(given) != num_boxes:
        raise row.error(
            "image_id", f"{len(given)} are given for {num_boxes} boxes on {num_images} images; give as many."
        )
    for number, image in enumerate(given):
        if isinstance(image, bool) or not isinstance(image, int) or not 0 <= image < num_images:
            raise row.wrong(f"image_id[{number}]", image, f"the number of an image, from 0 to {num_images - 1}")
    return tuple(given)
