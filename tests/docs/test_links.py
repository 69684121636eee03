"""Links of the pages lead somewhere: to a file of the repository, and to a heading of it."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from docs_pages import PAGES, ROOT

_SPEC = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
assert _SPEC is not None
assert _SPEC.loader is not None
hooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hooks)

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """Anchors that GitHub and the site give the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [link for link in LINK.findall(text) if not re.match(r"\w+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        assert file.exists(), f"{page.name}: {link} does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {link}: no such heading; there are {sorted(anchors(file))}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_link_of_a_page_has_a_place_on_the_site(page):
    shown = SimpleNamespace(file=SimpleNamespace(src_uri=page.relative_to(ROOT / "docs").as_posix()))
    assert hooks.NOT_THERE not in hooks.on_page_markdown(page.read_text(), shown)


def test_there_are_links_to_check():
    assert sum(len(links(page)) for page in PAGES) > 50


def test_what_the_site_includes_exists_and_every_page_is_in_its_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"{page.relative_to(ROOT / 'docs')}" in menu, f"mkdocs.yml: nav does not list {page.name}"
        for included in re.findall(r"^<!-- include: (\S+) -->$", page.read_text(), re.MULTILINE):
            assert (ROOT / included).is_file(), f"{page.name} includes {included}"
