"""Pages of the site that have their home elsewhere in the repository, and links that leave `docs/`.

A page that holds `<!-- include: PATH -->` shows that Markdown file; `<!-- sources: GLOB ... -->` shows files as code.
Links are written for a reader of the repository, relative to the file that holds them. On the site a link to a module
leads to the API reference, and one to a file that a page includes leads to that page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "data_prep/README.md": "data_sources.md",
    "examples/README.md": "examples.md",
    "src/dragonfly_lit/models/tiny_weights/README.md": "tiny_backbones.md",
}
"""File of the repository -> page of the site that includes it."""
NOT_THERE = "not-on-the-site"

_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_SOURCES = re.compile(r"^<!-- sources: (.+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".jsonl": "json"}


def on_page_markdown(markdown: str, page, **_) -> str:
    """The page with what it includes, its links made for the site."""
    here = f"docs/{page.file.src_uri}"
    text = _rewrite(markdown, here, page.file.src_uri)
    text = _INCLUDE.sub(lambda found: _rewrite(_read(found[1]), found[1], page.file.src_uri), text)
    return _SOURCES.sub(lambda found: _sources(found[1].split()), text)


def _read(path: str) -> str:
    return (ROOT / path).read_text()


def _rewrite(text: str, home: str, page: str) -> str:
    """Links of a file of the repository at `home`, for a page of the site; code blocks stay as they are."""

    def link(found: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(home), found[1]))
        return _on_site(target, found[2] or "", page)

    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in _FENCE.split(text))


def _on_site(target: str, anchor: str, page: str) -> str:
    """Where a file of the repository is on the site, relative to `page`; one without a place there fails the build."""
    parts = Path(target).parts
    if target in PAGES:
        place = PAGES[target]
    elif parts[0] == "docs":
        place = "/".join(parts[1:])
    elif parts[0] == "examples":
        place, anchor = "examples.md", f"#{_slug('/'.join(parts[1:]))}"
    elif target.startswith("src/dragonfly_lit/") and target.endswith(".py"):
        place, anchor = f"reference/{parts[2]}.md", "#" + ".".join(parts[1:])[: -len(".py")]
    elif parts[0] == "data_prep" and target.endswith(".py"):
        place, anchor = "reference/data_prep.md", "#" + ".".join(parts)[: -len(".py")]
    else:
        place = f"{NOT_THERE}/{target}"  # `mkdocs build --strict` names it
    return os.path.relpath(place, os.path.dirname(page) or ".") + anchor


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-")


def _sources(globs: list[str]) -> str:
    """Every file that the globs name, each a heading and a block of code."""
    shown = []
    for path in (path for glob in globs for path in sorted(ROOT.glob(glob)) if path.name != "__init__.py"):
        name = path.relative_to(ROOT / "examples").as_posix()
        shown.append(f"### {name}\n\n```{_LANGUAGES[path.suffix]}\n{path.read_text().rstrip()}\n```")
    return "\n\n".join(shown)
