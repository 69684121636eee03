"""What a `data:` URL carries (RFC 2397): base64, or text with percent signs."""

from __future__ import annotations

import base64
from urllib.parse import unquote_to_bytes


def is_data_url(text: str) -> bool:
    """Whether a text is one, in whatever case."""
    return text[:5].lower() == "data:"


def decode_data_url(url: str) -> bytes:
    """The bytes of a `data:` URL.

    Raises:
        ValueError: its base64 is damaged, or it carries nothing; the message does not repeat the URL.
    """
    head, _, body = url.partition(",")
    found = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            found = base64.b64decode(b"".join(found.split()), validate=True)
        except ValueError as error:
            raise ValueError(f"a data: URL whose base64 is damaged: {error}.") from error
    if not found:
        raise ValueError("a data: URL without data. Write data:image/png;base64,DATA.")
    return found
