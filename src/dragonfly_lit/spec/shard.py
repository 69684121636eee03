"""Fields of a shard record: `data_prep` writes them, `data/samples.py` reads them, nobody else spells them out.

A sample is `KEY.json` and its images: `KEY.jpg|jpeg|png|webp`, or `KEY.0.jpg`, `KEY.1.jpg` for several.
`KEY.txt` is read as a caption by readers of foreign shards. The JSON is
`{"id", "conversations": [{"role", "content": [{"type": "text", "text"} | {"type": "image"}]}], "source", "licence"}`
and may have `"share_image": true` and `"meta": {...}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from dragonfly_lit.spec.records import Record, Role, Turn

SCHEMA_VERSION = 1
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_EXTENSIONS = (*IMAGE_EXTENSIONS, "json", "txt")
KEY_PATTERN = re.compile(r"[A-Za-z0-9_/-]+")
DATASET_FILE = "dataset.json"
INDEX_SUFFIX = ".idx"
SIDECAR_SUFFIX = ".meta.jsonl"


def check_key(key: str) -> str:
    """`key` itself, or a ValueError that says which characters a key may have."""
    if not KEY_PATTERN.fullmatch(key) or key.startswith("/"):
        raise ValueError(
            f"key {key!r}: a sample key has letters, digits, _, - and / only (no dot: WebDataset splits names there)."
        )
    return key


def record_to_json(record: Record) -> dict[str, Any]:
    """The JSON member of a record, without its images."""
    conversations = [
        {"role": t.role, "content": [{"type": "image"}] * t.num_images + [{"type": "text", "text": t.text}]}
        for t in record.turns
    ]
    fields: dict[str, Any] = {
        "id": record.key,
        "conversations": conversations,
        "source": record.source,
        "licence": record.licence,
    }
    if record.share_image:
        fields["share_image"] = True
    if record.meta:
        fields["meta"] = dict(record.meta)
    return fields


def record_from_json(key: str, fields: Mapping[str, Any], images: tuple[bytes, ...]) -> Record:
    """The record of a JSON member and its images.

    Raises:
        ValueError: a field is missing or of the wrong type, or placeholders and images differ in number.
    """
    conversations = fields.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        raise ValueError(f"record {key}: 'conversations' must be a list of turns, not {conversations!r:.60}.")
    record = Record(
        key=key,
        source=str(fields.get("source", "")),
        licence=str(fields.get("licence", "")),
        turns=tuple(_turn(key, turn) for turn in conversations),
        images=images,
        share_image=bool(fields.get("share_image", False)),
        meta=fields.get("meta") or {},
    )
    placeholders = sum(turn.num_images for turn in record.turns)
    if placeholders != len(images):
        raise ValueError(
            f"record {key}: {placeholders} image placeholders but {len(images)} images; they must be equal."
        )
    return record


def _turn(key: str, turn: Any) -> Turn:
    if not isinstance(turn, Mapping) or turn.get("role") not in get_args(Role):
        raise ValueError(f"record {key}: turn {turn!r:.60} needs a role among {', '.join(get_args(Role))}.")
    content = turn.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise ValueError(f"record {key}: a turn's content is text or a list of parts, not {content!r:.60}.")
    texts, num_images = [], 0
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":
            num_images += 1
        else:
            raise ValueError(f"record {key}: a part is text or image, not {part!r:.60}.")
    return Turn(role=turn["role"], text="".join(texts), num_images=num_images)
