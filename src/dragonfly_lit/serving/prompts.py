"""A conversation with encoded images to what the model reads: ids, crops, and how much of it may be known already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from dragonfly_lit.processing.crops import Resize, cut
from dragonfly_lit.processing.encoding import expand_images
from dragonfly_lit.processing.images import decode
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.serving.prefixes import Key, Prefix
from dragonfly_lit.spec.layout import Layout, Zoom
from dragonfly_lit.spec.records import Crops
from dragonfly_lit.spec.samples import Role, Turn, turn_of_parts


@dataclass(frozen=True, kw_only=True)
class Message:
    """What one side said: texts, and as bytes the files of images, in their order."""

    role: Role
    parts: tuple[str | bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model reads of a conversation.

    Attributes:
        ids: tokens, the slots of the images among them.
        question: which of them are the question's.
        key: what the tokens up to the last image are known by; None where nothing is shared.
        num_shared: how many tokens those are.
        crops: of the images; empty where `prefix` is there.
        prefix: the tokens up to the last image, if they were known when the prompt was made.
        zoom: how images are looked at.
    """

    ids: tuple[int, ...]
    question: tuple[bool, ...]
    key: Key | None
    num_shared: int
    crops: tuple[Crops, ...]
    prefix: Prefix | None
    zoom: Zoom

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_unread(self) -> int:
        """Tokens that are not known yet."""
        return len(self) - (self.num_shared if self.prefix is not None else 0)


class Prompts:
    """Makes prompts; may be asked by several threads.

    Args:
        processor: of the model.
        known: gives a prefix that was computed before.
        max_pixels: of an image.
        max_tokens: of a prompt.
        max_images: of a conversation.
    """

    def __init__(
        self,
        processor: DragonflyProcessor,
        known: Callable[[Key], Prefix | None],
        *,
        max_pixels: int,
        max_tokens: int,
        max_images: int,
    ) -> None:
        self.format, self.layout, self.known = processor.format, processor.layout, known
        self.max_pixels, self.max_tokens, self.max_images = max_pixels, max_tokens, max_images
        self.ids = processor.format.ids
        self.resize: Resize = processor.image_processor.resize
        self._tokenizing = Lock()  # a tokenizer is not made for several threads at once

    def make(self, messages: Sequence[Message], zoom: Zoom | None = None) -> Prompt:
        """The prompt of a conversation whose next answer is asked for.

        Args:
            messages: of the conversation.
            zoom: how its images are looked at; None is the model's own.

        Raises:
            ValueError: an image is none or too large, a text holds a token that is structure, or there are too many
                tokens or images.
        """
        images = [part for message in messages for part in message.parts if isinstance(part, bytes)]
        if len(images) > self.max_images:
            raise ValueError(f"{len(images)} images are more than the {self.max_images} that are taken at once.")
        layout = self.layout if zoom is None else replace(self.layout, zoom=zoom)
        image_ids = layout.image_ids(self.ids.image, self.ids.newline)
        shares = not (layout.zoom.score == "question" and layout.zoom.selects)
        turns = [_turn(message) for message in messages]
        with self._tokenizing:
            text = self.format.prompt(turns)
        if self.format.in_place:
            text = expand_images(text, layout, self.ids)
        front = [] if self.format.in_place else image_ids * len(images)
        ids = (*front, *text.ids)
        if len(ids) > self.max_tokens:
            raise TooLongError(
                f"the conversation takes {len(ids)} tokens, {len(images) * len(image_ids)} of them for "
                f"{len(images)} images; at most {self.max_tokens} are taken."
            )
        question = (*([False] * len(front)), *text.question)
        num_shared = self._num_shared(ids) if images and shares else 0
        key = (ids[:num_shared], tuple(_digest(image) for image in images), layout.zoom) if num_shared else None
        prefix = None if key is None else self.known(key)
        crops = () if prefix is not None else tuple(self._crops(image, n, layout) for n, image in enumerate(images, 1))
        return Prompt(
            ids=ids,
            question=question,
            key=key,
            num_shared=num_shared,
            crops=crops,
            prefix=prefix,
            zoom=layout.zoom,
        )

    def _num_shared(self, ids: Sequence[int]) -> int:
        """Up to the last token of the last image; at least one token follows it."""
        of_images = (self.ids.image, self.ids.newline)
        last = max(place for place, token in enumerate(ids) if token == self.ids.image)
        while last + 1 < len(ids) and ids[last + 1] in of_images:
            last += 1
        return min(last + 1, len(ids) - 1)

    def _crops(self, image: bytes, number: int, layout: Layout) -> Crops:
        try:
            return cut(decode(image, max_pixels=self.max_pixels), layout, self.resize)
        except ValueError as error:
            raise ValueError(f"image {number}: {without_advice(error)}") from error


def without_advice(error: ValueError) -> str:
    """Why an image is not taken, in a line; what a user of the server cannot do is not named to them."""
    return " ".join(str(error).split(" Scale it down")[0].split())[:400]


class TooLongError(ValueError):
    """A conversation that the model's context, or the server's, does not hold."""


def _turn(message: Message) -> Turn:
    parts: list[Any] = [None if isinstance(part, bytes) else part for part in message.parts]
    return turn_of_parts(message.role, parts)


def _digest(image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=32).digest()
