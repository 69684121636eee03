"""Bytes of a shard -> members -> record -> sample: pure functions; what is wrong is a `BadSampleError` with a name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dragonfly_lit.data.order import choose
from dragonfly_lit.io.tar import MAX_MEMBER_BYTES, TarError, members
from dragonfly_lit.processing.images import MAX_PIXELS, decode
from dragonfly_lit.spec.records import Record, Sample, Turn
from dragonfly_lit.spec.shard import IMAGE_EXTENSIONS, MEMBER_EXTENSIONS, check_key, record_from_json

MAX_JSON_BYTES = 16 * 2**20
_NAME = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
_EXTENSION = re.compile(rf"(?:(\d{{1,4}})\.)?({'|'.join(MEMBER_EXTENSIONS)})")


class BadSampleError(ValueError):
    """A sample that cannot be used: shard, key and reason."""

    def __init__(self, shard: str, key: str, reason: str):
        super().__init__(f"shard {shard}, sample {key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason

    def __reduce__(self):
        return BadSampleError, (self.shard, self.key, self.reason)


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """The members of one sample by extension (`json`, `jpg`, `0.jpg`), still bytes."""

    shard: str
    key: str
    members: Mapping[str, bytes]


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member's name: WebDataset splits at the first dot of the last path component."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else (name, "")


def raw_sample(shard: str, data: bytes) -> RawSample:
    """The sample that `data`, a slice of a tar from header to header, holds.

    Raises:
        BadSampleError: not one sample, a key or an extension that is not allowed, a member too many or too large.
    """
    found: dict[str, bytes] = {}
    key = "?"
    try:
        for position, member in enumerate(members(lambda at, size: data[at : at + size], 0, len(data))):
            name, extension = split_name(member.name)
            if not position:
                key = check_key(name)
            elif name != key:
                raise ValueError(f"the index is wrong here: member {member.name!r} belongs to another sample.")
            if not _EXTENSION.fullmatch(extension):
                raise ValueError(
                    f"member {member.name!r} is not allowed; a sample has {', '.join(MEMBER_EXTENSIONS)} only."
                )
            if extension in found:
                raise ValueError(f"member {member.name!r} appears twice.")
            cap = MAX_MEMBER_BYTES if extension.endswith(IMAGE_EXTENSIONS) else MAX_JSON_BYTES
            if member.size > cap:
                raise ValueError(f"member {member.name!r} has {member.size} bytes; at most {cap}.")
            found[extension] = data[member.start : member.start + member.size]
    except (TarError, ValueError) as error:
        raise BadSampleError(shard, key, str(error)) from None
    if not found:
        raise BadSampleError(shard, key, "no member lies where the index points.")
    return RawSample(shard=shard, key=key, members=found)


def _images(raw: RawSample) -> tuple[bytes, ...]:
    """The encoded images in order: `jpg` alone, or `0.jpg`, `1.png`, ... without a gap."""
    numbered: dict[int, bytes] = {}
    single: list[bytes] = []
    for extension, data in raw.members.items():
        number, kind = _EXTENSION.fullmatch(extension).groups()  # type: ignore[union-attr]
        if kind not in IMAGE_EXTENSIONS:
            continue
        if number is None:
            single.append(data)
        elif int(number) in numbered:
            raise BadSampleError(raw.shard, raw.key, f"image {number} appears twice.")
        else:
            numbered[int(number)] = data
    if len(single) + bool(numbered) > 1:
        raise BadSampleError(raw.shard, raw.key, "several images must be numbered: KEY.0.jpg, KEY.1.jpg.")
    missing = [n for n in range(len(numbered)) if n not in numbered]
    if missing:
        raise BadSampleError(raw.shard, raw.key, f"image {missing[0]} is missing; there are {sorted(numbered)}.")
    return tuple(single) or tuple(numbered[n] for n in sorted(numbered))


def to_record(raw: RawSample) -> Record:
    """The record of a sample's members; `KEY.txt` without a JSON is a caption with an empty question.

    Raises:
        BadSampleError: no JSON and no caption, bad JSON, a missing image, placeholders that differ from images.
    """
    images = _images(raw)
    if "json" in raw.members:
        try:
            fields = json.loads(raw.members["json"])
            if not isinstance(fields, dict):
                raise ValueError(f"the JSON must be an object, not {type(fields).__name__}.")
            return record_from_json(raw.key, fields, images)
        except (ValueError, RecursionError) as error:
            raise BadSampleError(raw.shard, raw.key, f"{raw.key}.json: {error}") from None
    if "txt" not in raw.members:
        raise BadSampleError(raw.shard, raw.key, f"there is no {raw.key}.json and no {raw.key}.txt.")
    try:
        caption = raw.members["txt"].decode()
    except UnicodeDecodeError as error:
        raise BadSampleError(raw.shard, raw.key, f"{raw.key}.txt: {error}") from None
    turns = (Turn(role="user", text="", num_images=len(images)), Turn(role="assistant", text=caption.strip()))
    return Record(key=raw.key, source="", turns=turns, images=images)


def ask(record: Record, prompts: Sequence[str], draw: tuple[int | str, ...]) -> tuple[Turn, ...]:
    """The record's turns with a prompt in place of the only, or of an empty first, question.

    Args:
        record: the sample as it lies in the shard.
        prompts: texts to choose from; without any the record stays as it is.
        draw: what the choice depends on, such as (seed, source, key, epoch).

    Raises:
        ValueError: the first question is empty and there is no prompt to fill it.
    """
    users = [place for place, turn in enumerate(record.turns) if turn.role == "user"]
    if not users:
        return record.turns
    first = record.turns[users[0]]
    if not prompts:
        if not first.text.strip():
            raise ValueError("the question is empty. Give the source a prompt set (prompts: caption).")
        return record.turns
    if first.text.strip() and len(users) > 1:
        return record.turns
    text = prompts[choose(len(prompts), "prompt", *draw)]
    return tuple(replace(t, text=text) if n == users[0] else t for n, t in enumerate(record.turns))


def one_question(record: Record, draw: tuple[int | str, ...]) -> Record:
    """The record with one of the questions that share its images, no longer shared; other records stay as they are.

    Args:
        record: the sample as it lies in the shard.
        draw: what the choice depends on, such as (seed, source, key, epoch).
    """
    if not record.share_image:
        return record
    system = [turn for turn in record.turns if turn.role == "system"]
    asked = record.turns[len(system) :]
    start = 2 * choose(len(asked) // 2, "question", *draw)
    shown = len(record.images) - sum(turn.num_images for turn in system)
    user = replace(asked[start], num_images=shown)
    return replace(record, turns=(*system, user, *asked[start + 1 : start + 2]), share_image=False)


def to_sample(record: Record, turns: tuple[Turn, ...], *, source: str, max_pixels: int | None = None) -> Sample:
    """The sample with its images decoded to RGB; ValueError when an image is broken or has too many pixels."""
    images = tuple(decode(data, max_pixels=max_pixels or MAX_PIXELS) for data in record.images)
    return Sample(key=record.key, source=source, turns=turns, images=images, share_image=record.share_image)
