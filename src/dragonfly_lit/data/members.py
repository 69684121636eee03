"""Bytes of a shard -> members -> record: pure functions; what is wrong is a `BadSampleError` with a name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dragonfly_lit.io.tar import MAX_MEMBER_BYTES, TarError, members
from dragonfly_lit.spec.samples import Record, Turn
from dragonfly_lit.spec.shard import (
    CODE_EXTENSIONS,
    READ_IMAGE_EXTENSIONS,
    TURNS,
    has_turns,
    record_from_json,
)

MAX_JSON_BYTES = 16 * 2**20
_NAME = re.compile(r"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")
_IMAGE = re.compile(rf"(?:(\d{{1,4}})\.)?({'|'.join(READ_IMAGE_EXTENSIONS)})")


class BadSampleError(ValueError):
    """A sample that cannot be used: shard or source, key and reason, on one line whatever the key is.

    Attributes:
        shard: or whatever the sample lies in.
        key: of the sample, or its place where there is none.
        reason: why.
        place: of the sample within the shard, `#17`, where it is known: keys may be there twice.
        kind: type of the error that stands behind it where nobody foresaw one, such as `IndexError`.
        too_long: whether it does not fit and nothing else is wrong.
        source: whose reader is the user's own, which has no shards; empty for shards and tables.
    """

    def __init__(
        self,
        shard: str,
        key: str,
        reason: str,
        *,
        place: str = "",
        kind: str = "",
        too_long: bool = False,
        source: str = "",
    ):
        self.shard, self.key, self.reason, self.source = printable(shard), printable(key), printable(reason), source
        where = f"source {printable(source)} ({self.shard})" if source else f"shard {self.shard}"
        super().__init__(f"{where}, sample {self.key}: {self.reason}")
        self.place, self.kind, self.too_long = place, kind, too_long

    def __reduce__(self):
        return _again, (self.shard, self.key, self.reason, self.source), self.__dict__


def _again(shard: str, key: str, reason: str, source: str) -> BadSampleError:
    """An error that came out of a worker process."""
    return BadSampleError(shard, key, reason, source=source)


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """The members of one sample that are read, by extension (`json`, `jpg`, `0.jpg`), still bytes.

    Attributes:
        shard: its name.
        key: of the sample.
        members: their bytes by extension.
        overlooked: extensions of members that are images under names that none is looked for.
    """

    shard: str
    key: str
    members: Mapping[str, bytes]
    overlooked: tuple[str, ...] = ()


def printable(text: str) -> str:
    """`text` itself where it has a line's characters only; others, line separators among them, as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member's name: WebDataset splits at the first dot of the last path component.

    None for what belongs to no sample: a name without a dot, a hidden file (macOS writes a `._` file beside each), and
    WebDataset's own `__...__` members.
    """
    match = _NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match and not (name[:2] == "__" and _META.match(name)) else None


@lru_cache(4096)
def is_read(extension: str) -> bool:
    """Whether a member of this extension is part of what is trained on."""
    return extension in ("json", "txt") or _IMAGE.fullmatch(extension) is not None


def raw_sample(shard: str, data: bytes, max_member_bytes: int = MAX_MEMBER_BYTES) -> RawSample:
    """The sample that `data`, a slice of a tar from header to header, holds.

    Args:
        shard: its name, for messages.
        data: the slice.
        max_member_bytes: of a member; JSON and text may have 16 MB at most anyhow.

    Raises:
        BadSampleError: not one sample, or a member that is a link, that other tools unpickle, twice there or too large.
    """
    found: dict[str, bytes] = {}
    overlooked: list[str] = []
    key = ""
    try:
        for member in members(lambda at, size: data[at : at + size], 0, len(data)):
            split = split_name(member.name)
            if split is None:
                continue
            if not key:
                key = split[0]
                _check_place(key)
            elif split[0] != key:
                raise ValueError(f"the index is wrong here: member {member.name!r} belongs to another sample.")
            extension = split[1]
            if member.other:
                raise ValueError(
                    f"member {member.name!r} is not a regular file but {member.other}: only what lies in "
                    "the shard itself is read. Write the file in its place."
                )
            if not is_read(extension):
                if extension.rpartition(".")[2] in CODE_EXTENSIONS:
                    raise ValueError(f"member {member.name!r} is not allowed: other readers would run it.")
                if extension.rpartition(".")[2] in READ_IMAGE_EXTENSIONS:
                    overlooked.append(extension)
                continue
            if extension in found:
                raise ValueError(f"member {member.name!r} appears twice: each sample needs a key of its own.")
            cap = max_member_bytes if extension not in ("json", "txt") else min(MAX_JSON_BYTES, max_member_bytes)
            if member.size > cap:
                raise ValueError(f"member {member.name!r} has {member.size} bytes; at most {cap}.")
            found[extension] = data[member.start : member.start + member.size]
    except (TarError, ValueError) as error:
        raise BadSampleError(shard, key or "?", str(error)) from None
    if not found:
        raise BadSampleError(shard, key or "?", "no image, JSON or caption lies where the index points.")
    return RawSample(shard=shard, key=key, members=found, overlooked=tuple(overlooked))


def _check_place(key: str) -> None:
    if key.startswith("/") or ".." in key.split("/"):
        raise ValueError("a sample key is a place inside the shard, without a leading / and without `..`.")


def _images(raw: RawSample) -> tuple[bytes, ...]:
    """The encoded images in order: `jpg` alone, or `0.jpg`, `1.png`, ... without a gap."""
    numbered: dict[int, bytes] = {}
    single: list[bytes] = []
    for extension, data in raw.members.items():
        if extension in ("json", "txt"):
            continue
        number = extension.partition(".")[0] if "." in extension else None
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
        told = f"image {missing[0]} is missing; there are {sorted(numbered)}. They are numbered from 0, without a gap."
        raise BadSampleError(raw.shard, raw.key, told)
    return tuple(single) or tuple(numbered[n] for n in sorted(numbered))


def to_record(raw: RawSample) -> Record:
    """The record of a sample's members: a conversation, or an image and its caption with an empty question.

    Raises:
        BadSampleError: no JSON and no caption, bad JSON, a missing image, placeholders that differ from images.
    """
    try:
        return _to_record(raw)
    except BadSampleError as bad:
        if not raw.overlooked or any(extension not in ("json", "txt") for extension in raw.members):
            raise
        names = f"an image is {_file(raw, 'jpg')}, several are {_file(raw, '0.jpg')}, {_file(raw, '1.jpg')}."
        told = f"{bad.reason} {_file(raw, raw.overlooked[0])} is not read: {names}"
        raise BadSampleError(raw.shard, raw.key, told) from None


def _to_record(raw: RawSample) -> Record:
    images = _images(raw)
    fields: dict[str, Any] = {}
    if "json" in raw.members:
        try:
            given = json.loads(raw.members["json"])
            if not isinstance(given, dict | list):
                raise ValueError(f"the JSON must be an object, or a list of turns, not {type(given).__name__}.")
            fields = given if isinstance(given, dict) else {TURNS[0]: given}
            if has_turns(fields) or not ("txt" in raw.members or "caption" in fields):
                return record_from_json(raw.key, fields, images)
        except (ValueError, RecursionError) as error:
            raise BadSampleError(raw.shard, raw.key, f"{_file(raw, 'json')}: {error}") from None
    return _caption(raw, fields, images)


def _caption(raw: RawSample, fields: dict[str, Any], images: tuple[bytes, ...]) -> Record:
    name, text = _file(raw, "json"), fields.get("caption", "")
    if "txt" in raw.members:
        name = _file(raw, "txt")
        try:
            text = raw.members["txt"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSampleError(raw.shard, raw.key, f"{name}: {error}") from None
    elif "json" not in raw.members:
        told = f"there is no {name} and no {_file(raw, 'txt')} beside it."
        raise BadSampleError(raw.shard, raw.key, f"{told} Members of a sample lie one after the other.")
    if not isinstance(text, str | None):
        raise BadSampleError(raw.shard, raw.key, f"{name}: the caption must be a text, not {text!r:.60}.")
    if not text or not text.strip():
        raise BadSampleError(raw.shard, raw.key, f"{name}: the caption is empty, there is nothing to learn from.")
    if not images:
        raise BadSampleError(raw.shard, raw.key, f"{name} is a caption, but there is no image beside it.")
    turns = (Turn(role="user", text="", num_images=len(images)), Turn(role="assistant", text=text.strip()))
    return Record(key=raw.key, source="", turns=turns, images=images, is_caption=True, meta=fields)


def _file(raw: RawSample, extension: str) -> str:
    return f"{printable(raw.key)}.{extension}"
