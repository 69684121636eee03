"""What a data set holds, before anything is tokenised or cut: turns, records, samples; torch is not needed for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL.Image import Image

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side said, and how many of the sample's images came with it."""

    role: Role
    text: str
    num_images: int = 0


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
    is_caption: bool = False
    """Whether it came as an image and a caption, without a question; one is chosen when it is read."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the shard carries for this sample (answer type, category, boxes): never read by training."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A record whose images are decoded to RGB, and whose prompt has been chosen."""

    key: str
    source: str
    turns: tuple[Turn, ...]
    images: tuple[Image, ...] = ()
    share_image: bool = False
