"""The pages that a reader sees, and what the tests of this folder take out of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "data_prep/README.md",
    ROOT / "examples/README.md",
    ROOT / "tools/tiny_backbones/README.md",
    ROOT / "src/dragonfly_lit/models/tiny_weights/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [path for path in PAGES if path.exists()]
_FENCE = re.compile(
    r"(?:^[ ]*<!-- test: (?P<how>[^\n]*?) -->\n+)?^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<body>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `how` is what the comment `<!-- test: ... -->` before it says, or empty."""

    page: str
    line: int
    language: str
    how: str
    body: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a page."""
    text, page = path.read_text(), path.relative_to(ROOT).as_posix()
    return [
        Block(page, text.count("\n", 0, found.start("body")), found["language"], found["how"] or "", found["body"])
        for found in _FENCE.finditer(text)
    ]


def prose(path: Path) -> str:
    """A page without its code: fenced blocks and code in a line are left out."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", "", text)


def commands(body: str) -> list[str]:
    """Commands of a block: comments and prompts left out, continued lines joined, `&&` taken apart."""
    joined = re.sub(r"\\\n\s*", " ", body)
    lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


_COMMAND = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:python|torchrun|dragonfly[\w-]*|pytest|pip|mkdocs|ruff) [^`\n]+)`")


def sentences(path: Path) -> list[str]:
    """Commands in the sentences and tables of a page; the changelog also names what is gone."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [] if path.name == "CHANGELOG.md" else _COMMAND.findall(text)
