"""`exclude: FILE` of a source: shards or tables without the samples whose keys a file lists."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from dragonfly_lit.io.text import text_lines
from dragonfly_lit.spec.samples import Record

log = logging.getLogger(__name__)
_PLAIN = re.compile(r"[^\r\n\0\ud800-\udfff]*")
"""Keys that a line of UTF-8 can hold as they are."""


@runtime_checkable
class Keyed(Protocol):
    """What is read in place and knows its keys: shards and tables."""

    path: str

    @property
    def digest(self) -> str:
        """Changes when the data do."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def keys(self) -> Iterator[str]:
        """The key of every sample, in their order."""
        ...

    def record(self, index: int, epoch: int = 0) -> Record:
        """The record at `index`."""
        ...

    def describe(self, index: int) -> tuple[str, str]:
        """Where it lies."""
        ...


def read_keys(path: Path) -> list[str]:
    """The keys that a file lists, one a line; blank lines and those that are `#` or begin with `# ` say nothing.

    A key is the whole line, outer spaces too. One that no line can be is written as a text of JSON, in quotes.

    Raises:
        ValueError: there is no such file, or it is not text.
    """
    try:
        lines = [line.rstrip("\r\n") for line in text_lines(path)]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return [_key_of(line) for line in lines if not _says_nothing(line)]


def write_keys(path: Path, keys: Iterable[str], about: str) -> None:
    """Write a list that `read_keys` reads.

    Args:
        path: of the list.
        keys: that are listed.
        about: what they are, for whoever reads the file.
    """
    path.write_text(f"# {about}\n" + "".join(f"{_line_of(key)}\n" for key in keys), encoding="utf-8")


def _says_nothing(line: str) -> bool:
    return not line.strip() or line == "#" or line.startswith("# ")


def _line_of(key: str) -> str:
    if _says_nothing(key) or key.startswith('"') or not _PLAIN.fullmatch(key):
        return json.dumps(key)
    return key


def _key_of(line: str) -> str:
    if line.startswith('"'):
        with suppress(ValueError):
            key = json.loads(line)
            if isinstance(key, str):
                return key
    return line


class Kept:
    """The samples of shards or tables that are not excluded, numbered anew: a `Reader` like those themselves.

    Their number and their digest are others than those of the data, so that a checkpoint of another list is refused
    by name and order, mix and resume need to know nothing of it.

    Args:
        reader: of the source.
        keys: of the samples that are left out.

    Raises:
        ValueError: no sample has one of the keys, or all have.
    """

    def __init__(self, reader: Keyed, keys: list[str]):
        self.reader, excluded = reader, set(keys)
        keys_here = list(reader.keys())
        self._kept = np.array([place for place, key in enumerate(keys_here) if key not in excluded], np.int64)
        unknown = len(excluded.difference(keys_here))
        if excluded and unknown == len(excluded):
            raise ValueError(f"lists {unknown} keys, and no sample here has one: it is the list of another source.")
        if not len(self._kept):
            raise ValueError(f"lists all {len(keys_here)} samples. Take the source out in place of them.")
        if unknown:
            log.warning("%s: %d of the %d excluded keys are of no sample here.", reader.path, unknown, len(excluded))
        listed = "\n".join(sorted(excluded))
        self._digest = hashlib.sha256(f"{reader.digest}\n{listed}".encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """Of the data and of what is left out of them."""
        return self._digest

    def __len__(self) -> int:
        return len(self._kept)

    def record(self, index: int, epoch: int = 0) -> Record:
        """The record at `index` of those that are kept."""
        return self.reader.record(int(self._kept[index]), epoch)

    def describe(self, index: int) -> tuple[str, str]:
        """Shard or file, and place, of the same."""
        return self.reader.describe(int(self._kept[index]))
