"""Pages, configuration and messages use the words of the glossary, in plain English."""

import ast
import re

import pytest
from docs_pages import PAGES, ROOT, prose

OLD = {
    r"\bis no (?!longer\b)(?!other\b)": "is not a",
    r"\bstands? (?:twice|more than once)\b": "appears twice",
    r"\bto be had\b": "was not found, can be installed",
    r"\brefused[ _]steps?\b": "skipped step",
    r"\bpython -m data_prep backbones\b": "python -m tools.tiny_backbones",
    r"\bval_batches\b": "limit_val_batches",
    r"\bevery knob\b": "every key",
}
THERE_IS = re.compile(r"[Tt]here is no ")
SOURCES = [
    path
    for folder in ("src/dragonfly_lit", "data_prep", "tools", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "texts.py"  # sentences about drawn shapes
]
CONFIGURATION = sorted([*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "examples").rglob("*.yaml")])


def old_words(text: str) -> list[str]:
    text = THERE_IS.sub("", text)
    return [f"{found[0]!r}: say {new!r}" for old, new in OLD.items() if (found := re.search(old, text))]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_is_in_the_words_of_the_field(page):
    assert old_words(prose(page)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_and_messages_are_in_the_words_of_the_field(path):
    texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
    assert old_words("\n".join(text for text in texts if isinstance(text, str))) == []


@pytest.mark.parametrize("path", CONFIGURATION, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_configuration_is_in_the_words_of_the_field(path):
    assert old_words(path.read_text()) == []


def test_the_list_of_old_words_finds_them():
    assert old_words("x is no list. The source stands twice; refused_steps, is not to be had, trainer.val_batches=1")
    assert old_words("there is no image, limit_val_batches=2, skipped_steps, it is no longer there") == []


def test_no_class_or_function_has_a_name_of_the_old_vocabulary():
    old = {
        "Ask",
        "Reply",
        "Mark",
        "Marked",
        "Claim",
        "Draft",
        "drafts",
        "spared",
        "undecayed",
        "look",
        "spell",
        "quiet",
    }
    for path in SOURCES:
        nodes = ast.walk(ast.parse(path.read_text()))
        names = {n.name for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        assert names & old == set(), path
