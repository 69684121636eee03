"""Conversations in the forms that transformers and OpenAI give them, as text parts and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dragonfly_lit.processing.image_inputs import ImageInput

_IMAGE_KEYS = ("image", "url", "path", "base64", "image_url")
_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")

Conversation = Sequence[Mapping[str, Any]]


def is_batch(conversation: Any) -> bool:
    """Whether these are several conversations, and not one of messages.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(conversation, Sequence) or isinstance(conversation, str | bytes) or not conversation:
        raise ValueError('a conversation is a list of messages: [{"role": "user", "content": "What is it?"}].')
    return not isinstance(conversation[0], Mapping)


def normalise(conversation: Conversation) -> tuple[list[dict[str, Any]], list[ImageInput]]:
    """The messages with parts of the types `text` and `image` alone, and the images that they bring, in their order.

    An image without a file in it (`{"type": "image"}`) is a place for one that is given apart.

    Raises:
        ValueError: a message has no role or content, or a part is of another kind.
    """
    messages: list[dict[str, Any]] = []
    images: list[ImageInput] = []
    for number, message in enumerate(conversation):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise ValueError(f"message {number} is not a mapping with role and content: {message!r:.80}.")
        content = message["content"]
        if not isinstance(content, str):
            content = [_part(part, images, number) for part in _parts(content, number)]
        messages.append({**message, "content": content})
    return messages, images


def _parts(content: Any, number: int) -> Sequence[Any]:
    if isinstance(content, Mapping):
        return [content]
    if content is None:
        return []
    if not isinstance(content, Sequence):
        raise ValueError(f"message {number}: content is a {type(content).__name__}, not a text or a list of parts.")
    return content


def _part(part: Any, images: list[ImageInput], number: int) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_TYPES and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind not in _IMAGE_TYPES:
        raise ValueError(
            f"message {number}: a part of type {kind!r} is not understood ({part!r:.80}). A Dragonfly reads parts of "
            "the types text, image and image_url."
        )
    found = next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)
    if isinstance(found, Mapping) and "url" in found:
        found = found["url"]
    if found is not None:
        images.append(found)
    return {"type": "image"}
