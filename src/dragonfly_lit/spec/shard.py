"""Fields of a shard record: `data_prep` writes them, `data/members.py` reads them, nobody else spells them out.

A sample is `KEY.json` and its images: `KEY.jpg|jpeg|png|webp`, or `KEY.0.jpg`, `KEY.1.jpg` for several. The JSON is
`{"id", "conversations": [{"role", "content": [{"type": "text", "text"} | {"type": "image"}]}], "source", "licence"}`
and may have `"share_image": true` and `"meta": {...}`. A preference has `"chosen"` and `"rejected"` beside turns that
end with a user's: two answers to them, the better and the worse one, each a text.

Of other tools these are read too: turns of `from` and `value` or a text as `content` (LLaVA, Energon), the list of
turns without an object around it, `messages` in place of `conversations`; `<image>` before or behind a text stands for
an image; a chosen or rejected answer may be a turn, or a list of one. A JSON without turns is metadata, and `KEY.txt`,
or else its `caption`, the caption of the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dragonfly_lit.spec.samples import Record, Role, Turn, turn_of_parts

SCHEMA_VERSION = 1
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MEMBER_EXTENSIONS = (*IMAGE_EXTENSIONS, "json", "txt")
READ_IMAGE_EXTENSIONS = (*IMAGE_EXTENSIONS, "gif", "bmp", "tif", "tiff")
"""Of images in shards that other tools wrote."""
NAMED_IMAGE_EXTENSIONS = (*READ_IMAGE_EXTENSIONS, "dcm", "dicom", "heic", "avif")
"""Of files that are images where a row names them, whether they can be read or not."""
CODE_EXTENSIONS = ("pyd", "pickle", "pkl", "pth", "pt")
"""Members that other readers unpickle, so that opening the shard there runs code: their sample is refused."""
TURNS = ("conversations", "messages")
CHOSEN, REJECTED = "chosen", "rejected"
SYSTEM = "system"
"""What is said before all turns, where another tool keeps it beside them."""
PLACEHOLDER = "<image>"
ROLES: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
CAPTION_PROMPT = "Describe the image."
"""What a caption answers where its source has no `prompts`."""
KEY_PATTERN = re.compile(r"[A-Za-z0-9_/-]+")
DATASET_FILE = "dataset.json"
SPLITS = ("train", "validation", "test")
SPLITS_FILE = "splits.json"
"""In a folder whose shards lie in its parts, the folders `SPLITS`."""
INDEX_SUFFIX = ".idx"
SIDECAR_SUFFIX = ".meta.jsonl"
_INTERLEAVED = (
    "the tag of an image stands between two texts. Write the turn as a list of parts, texts and images, or give each "
    "image a turn of its own."
)


def check_key(key: str) -> str:
    """`key` itself, or a ValueError that says which characters a key may have."""
    if not KEY_PATTERN.fullmatch(key) or key.startswith("/"):
        raise ValueError(
            f"key {key!r}: a sample key has letters, digits, _, - and / only (no dot: WebDataset splits names there)."
        )
    return key


def record_to_json(record: Record) -> dict[str, Any]:
    """The JSON member of a record, without its images."""
    turns = record.turns[:-1] if record.rejected else record.turns
    conversations = [{"role": turn.role, "content": _parts(turn)} for turn in turns]
    fields: dict[str, Any] = {
        "id": record.key,
        "conversations": conversations,
        "source": record.source,
        "licence": record.licence,
    }
    if record.rejected:
        fields |= {CHOSEN: record.turns[-1].text, REJECTED: record.rejected}
    if record.share_image:
        fields["share_image"] = True
    if record.meta:
        fields["meta"] = dict(record.meta)
    return fields


def _parts(turn: Turn) -> list[dict[str, Any]]:
    """Images and texts as they follow one another; one text behind all images where the turn does not say."""
    parts: list[dict[str, Any]] = []
    start = 0
    for place in turn.places or (0,) * turn.num_images:
        if place > start:
            parts.append({"type": "text", "text": turn.text[start:place]})
        parts.append({"type": "image"})
        start = place
    if start < len(turn.text) or not turn.places:
        parts.append({"type": "text", "text": turn.text[start:]})
    return parts


def has_turns(fields: Mapping[str, Any]) -> bool:
    """Whether a JSON member holds a conversation; otherwise it is what another tool says about its image."""
    return any(fields.get(name) is not None for name in TURNS)


def record_from_json(key: str, fields: Mapping[str, Any], images: tuple[bytes, ...]) -> Record:
    """The record of a JSON member and its images.

    Raises:
        ValueError: a field is missing or of the wrong type, or placeholders and images differ in number.
    """
    name = next((name for name in TURNS if fields.get(name) is not None), TURNS[0])
    conversations = fields.get(name)
    if conversations is None:
        there = ", ".join(f"{field!r:.40}" for field in list(fields)[:20]) or "nothing"
        raise ValueError(f"record {key}: it has none of {', '.join(TURNS)} and no caption, but {there}.")
    if not isinstance(conversations, list) or not conversations:
        raise ValueError(f"record {key}: {name!r} must be a list of turns, not {conversations!r:.60}.")
    share_image, meta = fields.get("share_image") or False, fields.get("meta") or {}
    if not isinstance(share_image, bool):
        raise ValueError(f"record {key}: 'share_image' is true or false, not {share_image!r:.60}.")
    turns = tuple(_turn(key, turn) for turn in conversations)
    turns = (*_system(key, fields, turns), *turns)
    answers = _preference(key, fields, turns)
    placeholders = sum(turn.num_images for turn in turns)
    if not placeholders and images and any("from" in turn for turn in conversations):
        turns = _with_first_question(key, turns, len(images))
    elif placeholders != len(images):
        raise ValueError(
            f"record {key}: {placeholders} image placeholders but {len(images)} images; they must be equal."
        )
    if not images and (named := next((name for name in ("image", "images") if fields.get(name)), None)):
        raise ValueError(f"record {key}: {named!r} names {fields[named]!r:.60}, but there is no image beside the JSON.")
    return Record(
        key=key,
        source=str(fields.get("source", "")),
        licence=str(fields.get("licence", "")),
        turns=(*turns, *answers[:1]),
        rejected=answers[1].text if answers else "",
        images=images,
        share_image=share_image,
        meta=meta if isinstance(meta, Mapping) else {"meta": meta},
    )


def _system(key: str, fields: Mapping[str, Any], turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """What stands beside the turns as the first of them."""
    given = fields.get(SYSTEM)
    if given is None or (isinstance(given, str) and not given.strip()):
        return ()
    if not isinstance(given, str):
        raise ValueError(f"record {key}: {SYSTEM!r} must be a text, not {given!r:.60}.")
    if any(turn.role == "system" for turn in turns):
        raise ValueError(f"record {key}: {SYSTEM!r} is given, and its turns have one of that role. Leave one of them.")
    return (_tagged(key, "system", given),)


def _preference(key: str, fields: Mapping[str, Any], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The chosen and the rejected answer; none where the record is not a preference."""
    given = [name for name in (CHOSEN, REJECTED) if fields.get(name) is not None]
    if not given:
        return ()
    if len(given) == 1:
        lacking = REJECTED if given[0] == CHOSEN else CHOSEN
        raise ValueError(f"record {key}: it has {given[0]!r} and no {lacking!r}. A preference has both.")
    if turns[-1].role != "user":
        raise ValueError(
            f"record {key}: {CHOSEN!r} and {REJECTED!r} answer the last turn, which is of role {turns[-1].role} and "
            "must be the user's."
        )
    return tuple(_answer(key, name, fields[name]) for name in given)


def _answer(key: str, name: str, given: Any) -> Turn:
    """An answer that is a text, a turn, or a list of one turn, as other tools have it."""
    inside = given[0] if isinstance(given, list) and len(given) == 1 else given
    turn = {"role": "assistant", "content": inside} if isinstance(inside, str) else inside
    if not isinstance(turn, Mapping):
        raise ValueError(f"record {key}: {name!r} must be the text of an answer or one turn, not {given!r:.60}.")
    found = _turn(key, turn)
    if found.role != "assistant" or found.num_images or not found.text.strip():
        raise ValueError(f"record {key}: {name!r} must be a text of the assistant, not {given!r:.60}.")
    return found


def _with_first_question(key: str, turns: tuple[Turn, ...], num_images: int) -> tuple[Turn, ...]:
    """LLaVA's turns without any tag: the images come with the first question."""
    first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise ValueError(f"record {key}: {num_images} images, but no turn of a user that they could come with.")
    return tuple(replace(turn, num_images=num_images) if n == first else turn for n, turn in enumerate(turns))


def _turn(key: str, turn: Any) -> Turn:
    if not isinstance(turn, Mapping):
        raise ValueError(f"record {key}: a turn must be an object with a role and a content, not {turn!r:.60}.")
    said = turn.get("role", turn.get("from"))
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        raise ValueError(f"record {key}: turn {turn!r:.60} needs a role among {', '.join(ROLES)}.")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str):
        return _tagged(key, role, content)
    if not isinstance(content, list):
        raise ValueError(f"record {key}: a turn's content is text or a list of parts, not {content!r:.60}.")
    parts: list[str | None] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind in ("image", "image_url"):
            parts.append(None)
        else:
            raise ValueError(f"record {key}: a part is text or image, not {part!r:.60}.")
    return turn_of_parts(role, parts)


def _tagged(key: str, role: Role, text: str) -> Turn:
    """A turn whose images are tags at the start or at the end of its text."""
    if PLACEHOLDER not in text:
        return Turn(role=role, text=text)
    if role == "assistant":
        raise ValueError(f"record {key}: {PLACEHOLDER} stands in an answer: {text!r:.60}.")
    pieces = [piece.strip() for piece in text.split(PLACEHOLDER)]
    said = [piece for piece in pieces if piece]
    if len(said) > 1 or (said and not (pieces[0] or pieces[-1])):
        raise ValueError(f"record {key}: {_INTERLEAVED}")
    return Turn(role=role, text="".join(said), num_images=len(pieces) - 1)
