"""The tables of the architecture and of the glossary say what the code does."""

import ast
import re

from docs_pages import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()


def may_use() -> dict[str, set[str]]:
    """MAY_USE of the layering test, read and not imported."""
    for node in ast.parse((ROOT / "tests/unit/test_layers.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MAY_USE":
            return ast.literal_eval(node.value)
    raise AssertionError("tests/unit/test_layers.py has no MAY_USE")


def rooms_of_the_page() -> dict[str, set[str]]:
    table = PAGE.partition("<!-- rooms:")[2].partition("\n\n|")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.strip("| ").split("|")] for row in table.splitlines()[2:]]
    return {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2] if len(row) > 2 else "")) for row in rows}


def test_the_rooms_of_the_page_are_those_that_the_layering_test_enforces():
    assert rooms_of_the_page() == {room: allowed - {room} for room, allowed in may_use().items()}


def test_every_room_has_a_page_in_the_reference():
    pages = {path.stem for path in (ROOT / "docs/reference").glob("*.md")} - {"index"}
    assert pages == set(may_use())


def test_the_flow_names_files_and_types_that_exist():
    table = PAGE.partition("## The flow")[2].partition("\n| ")[2].partition("\n\n")[0]
    files = [ROOT / f"src/dragonfly_lit/spec/{name}.py" for name in ("samples", "records")]
    types = {node.name for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}
    arrows = set(re.findall(r"`([A-Z]\w+)`", table))
    assert arrows >= {"Record", "Sample", "Crops", "Sequence", "Batch"}
    assert arrows <= types


def test_how_to_add_names_every_example_and_no_other():
    named = set(re.findall(r"examples/(my_parts/\w+\.py)", PAGE))
    there = {f"my_parts/{path.name}" for path in (ROOT / "examples/my_parts").glob("*.py")} - {"my_parts/__init__.py"}
    assert named == there


def test_no_word_is_explained_twice():
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [row for row in rows if row not in ("word", "---")]
    assert len(words) > 40
    assert len(words) - len(set(words)) == 1, "only `score` has two meanings, one of the zoom and one of an answer"
