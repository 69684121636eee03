"""What a format's module gives: turns, and images that are still names in a folder or encoded bytes.

The rules that all formats share are here: what a row without its image looks like, which words would be read as
something else. Where an image tag may stand is in `turns`, how a question with choices is put in `questions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dragonfly_lit.spec.rows import Row, RowError
from dragonfly_lit.spec.samples import Turn, check_preference
from dragonfly_lit.spec.shard import PLACEHOLDER, REJECTED
from dragonfly_lit.spec.tokens import STRUCTURAL

from .boxes import Objects, objects_of
from .images import check_images

NOT_IMAGES = ("videos", "video", "audios", "audio")
"""Cells of chats that go with tags in their texts, and that a sample of images and text cannot hold."""

_LATER = ("image_columns", "images_first", "images_in_place", "columns", "boxes")
_OTHER_TAG = re.compile(
    r"<\|(?:image|img|vision)\w*\|>|<img>[^<]*</img>|<start_of_image>|<image_placeholder>|<ImageHere>|<image_soft_token>"
)
_BOX_TAG = re.compile(r"<(?:bbox|ref-object)>")
_LOST_TAG_OF_USER = re.compile(r"<(?:video|audio)>")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line may ask of a format.

    Attributes:
        split: of the formats that keep all splits in one file: `train`, `test` or `all`.
        language: of the bilingual ones: `en`, `zh` or `all`.
        share_image: whether all questions about one image become one sample.
        prompt: the user's turn of a caption.
        image_columns: where the images of a row are, in this order, in place of the format's own names.
        images_first: whether images that stand inside a text may move before it.
        images_in_place: whether every image stays where its tag is.
        columns: of a table, what is called how: pairs of a name of `spec.table.COLUMNS` and a column.
        boxes: `text` writes boxes and their names into the turns, where their tags stand; else they are refused.
    """

    split: str = "train"
    language: str = "en"
    share_image: bool = False
    prompt: str = "Describe the image."
    image_columns: tuple[str, ...] = ()
    images_first: bool = False
    images_in_place: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    boxes: str = ""

    def plan(self) -> dict[str, Any]:
        """The options as JSON keeps them; those that came later only where they are used."""
        given = {**asdict(self), "image_columns": list(self.image_columns), "columns": [list(c) for c in self.columns]}
        return {key: value for key, value in given.items() if value or key not in _LATER}


@dataclass(frozen=True, kw_only=True)
class RawConversation:
    """A record to be: `images` are names within the image folder, or encoded images; `objects` is yet to be written.

    `rejected` is of a preference: a worse answer than the last turn, which is the chosen one.
    """

    name: str
    turns: tuple[Turn, ...]
    images: tuple[str | bytes, ...] = ()
    share_image: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    objects: Objects | None = None
    rejected: str = ""


def finish(
    row: Row,
    name: str,
    turns: Iterable[Turn],
    images: Sequence[str | bytes],
    *,
    share_image: bool = False,
    boxes: bool = False,
    rejected: str = "",
    **meta: Any,
) -> RawConversation:
    """A conversation whose images belong to its turns: with the first user turn when no turn says where.

    Args:
        row: that was read.
        name: of the conversation.
        turns: of it.
        images: of the row.
        share_image: whether all questions are about the same images.
        boxes: whether the tags of boxes stand for those of the row.
        rejected: of a preference: the worse answer.
        meta: what is kept beside it.

    Raises:
        RowError: nothing to learn from, an empty turn, tokens or tags that are read as something else, or images that
            the row mentions and does not have.
    """
    turns = list(turns)
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError(row.place, "no turn of the assistant has a text: nothing to learn from.")
    first = next((number for number, turn in enumerate(turns) if turn.role == "user"), len(turns))
    for number, turn in enumerate(turns):
        _check_turn(row, number, turn, is_first=number <= first, boxes=boxes)
    if rejected:
        check_words(row, REJECTED, rejected)
        try:
            check_preference(turns, rejected, share_image=share_image)
        except ValueError as error:
            raise RowError(row.place, str(error)) from None
    objects = objects_of(row, turns, len(images)) if boxes else None
    for number, said in enumerate(objects.names if objects else ()):
        check_words(row, f"objects.ref[{number}]", said)
    check_images(row, [turn.text for turn in turns if turn.role != "assistant"], images)
    placeholders = sum(turn.num_images for turn in turns)
    if not placeholders and images:
        first = next((i for i, turn in enumerate(turns) if turn.role == "user"), 0)
        turns[first] = Turn(role=turns[first].role, text=turns[first].text, num_images=len(images))
    elif placeholders != len(images):
        raise RowError(row.place, f"{placeholders} image placeholders but {len(images)} images; they must be equal.")
    kept = {key: value for key, value in meta.items() if value not in (None, "", [])}
    return RawConversation(
        name=name,
        turns=tuple(turns),
        images=tuple(images),
        share_image=share_image,
        meta=kept,
        objects=objects,
        rejected=rejected,
    )


def _check_turn(row: Row, number: int, turn: Turn, *, is_first: bool, boxes: bool) -> None:
    where = f"turn {number} ({turn.role})"
    # The first question may be empty: a source's prompts fill it when it is trained on.
    if not turn.text and (turn.role == "assistant" or (turn.role == "user" and not is_first and not turn.num_images)):
        raise RowError(row.place, f"{where} is empty.")
    check_words(row, where, _BOX_TAG.sub("", turn.text) if boxes else turn.text)
    if turn.role == "user" and (tag := _LOST_TAG_OF_USER.search(turn.text)):
        raise RowError(row.place, f"{where} has {tag[0]}, and a sample here has images and text only.")


def check_words(row: Row, where: str, text: str) -> None:
    """Raise where a text holds what would be read as something else than words.

    Args:
        row: that it is of.
        where: it stands, for the message.
        text: without the tags that stand for something.

    Raises:
        RowError: it does.
    """
    if PLACEHOLDER in text:  # what `make_turn` saw has none any more
        raise RowError(row.place, f"{where} has {PLACEHOLDER} in a choice, a hint or a name, where no image can be.")
    for token in STRUCTURAL:
        if token in text:
            raise RowError(row.place, f"{where} contains the special token {token}, which would be read as structure.")
    if tag := _OTHER_TAG.search(text):
        raise RowError(row.place, f"{where} has {tag[0]!r:.60}; the tag of an image is {PLACEHOLDER} here.")
    if tag := _BOX_TAG.search(text):
        told = f"{where} has {tag[0]}, and a sample here has images and text only; --boxes text writes boxes as words."
        raise RowError(row.place, told)


def refuse_cells(row: Row, *names: str) -> None:
    """Raise where one of these cells holds something: the texts speak of it, and it would be lost."""
    for name in row.given(*names):
        raise row.error(name, "is given, and a sample here has images and text only.")


def label(row: Row, *names: str) -> str:
    """A text or whole number that only labels the row, such as its id; empty where there is none."""
    for name in row.given(*names):
        if isinstance(row.values[name], str | int) and not isinstance(row.values[name], bool):
            return row.text(name, numbers=True)
    return ""
