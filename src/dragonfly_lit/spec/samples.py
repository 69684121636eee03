"""What a data set holds, before anything is tokenised or cut: turns, records, samples; torch is not needed for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL.Image import Image

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side said, and how many of the sample's images came with it.

    Attributes:
        role: whose turn it is.
        text: words alone; nothing in them stands for an image.
        num_images: that came with it.
        places: where in the text they stand, in characters before each; empty where all stand before it.
    """

    role: Role
    text: str
    num_images: int = 0
    places: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.places and (
            len(self.places) != self.num_images
            or list(self.places) != sorted(self.places)
            or not 0 <= self.places[0] <= self.places[-1] <= len(self.text)
        ):
            raise ValueError(
                f"places={self.places} of {self.num_images} images do not lie in order in a text of {len(self.text)} "
                "characters."
            )

    @property
    def has_images_inside(self) -> bool:
        """Whether an image stands between two of its words."""
        before, behind = len(self.text) - len(self.text.lstrip()), len(self.text.rstrip())
        return any(before < place < behind for place in self.places)

    def with_images(self, token: str) -> str:
        """The text without surrounding space, and `token` where an image stands."""
        text, left = self.text.strip(), len(self.text) - len(self.text.lstrip())
        told, start = "", 0
        for place in self.places or (0,) * self.num_images:
            end = min(max(place - left, 0), len(text))
            told, start = told + text[start:end] + token, end
        return told + text[start:]


def turn_of_parts(role: Role, parts: Iterable[str | None]) -> Turn:
    """The turn of texts and, as None, images in their order.

    Args:
        role: whose turn it is.
        parts: as they follow one another.
    """
    text, places = "", []
    for part in parts:
        if part is None:
            places.append(len(text))
        else:
            text += part
    return Turn(role=role, text=text, num_images=len(places), places=tuple(places) if any(places) else ())


@dataclass(frozen=True, kw_only=True)
class Record:
    """A sample as it lies in a shard: its turns and its images still encoded."""

    key: str
    source: str
    turns: tuple[Turn, ...]
    images: tuple[bytes, ...] = ()
    licence: str = ""
    share_image: bool = False
    """Whether each user-assistant pair is a question of its own about the same image."""
    rejected: str = ""
    """Of a preference: what is a worse answer than its last turn; empty where there is one answer only."""
    is_caption: bool = False
    """Whether it came as an image and a caption, without a question; one is chosen when it is read."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the shard carries for this sample (answer type, category, boxes): never read by training."""


def check_preference(turns: Sequence[Turn], rejected: str, *, share_image: bool) -> None:
    """ValueError for a chosen and a rejected answer of which nothing can be learnt.

    Args:
        turns: of the conversation, the chosen answer last.
        rejected: the other answer.
        share_image: whether each question is by itself.
    """
    if not turns or turns[-1].role != "assistant" or not turns[-1].text.strip():
        raise ValueError("a rejected answer needs a chosen one: a text of the assistant that ends the conversation.")
    if turns[-1].text.strip() == rejected.strip():
        raise ValueError(f"the chosen and the rejected answer are the same, {rejected.strip()!r:.60}. Leave it out.")
    if share_image:
        raise ValueError("share_image=true is for several questions, and a preference has one. Make it a sample each.")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A record whose images are decoded to RGB, and whose prompt has been chosen."""

    key: str
    source: str
    turns: tuple[Turn, ...]
    images: tuple[Image, ...] = ()
    share_image: bool = False
    is_caption: bool = False
    """As in its record."""
    rejected: str = ""
    """As in Record."""
