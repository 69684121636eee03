"""Words of a data set in a Markdown file: they stay words."""

from __future__ import annotations

import re

_MARKS = re.compile(r"[\\`*\[\]<>|~$#!@]|(?<![^\W_])_|_(?![^\W_])")
_ADDRESSES = re.compile(r"\bwww\.|:(?=/)", re.IGNORECASE)
"""GitHub makes links of bare addresses."""


def plain(text: str) -> str:
    """`text` on one line, without HTML, links, code or emphasis of its own; what is not printed becomes an escape."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
    marked = _MARKS.sub(r"\\\g<0>", line.replace("&", "&amp;"))
    return _ADDRESSES.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", marked)
