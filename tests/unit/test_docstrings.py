"""A docstring's `Args:` are the arguments, its `Attributes:` are attributes: what a reader is told exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [p for folder in ("src", "data_prep", "tools", "examples") for p in sorted((ROOT / folder).rglob("*.py"))]
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def documented(docstring: str, section: str) -> list[str]:
    """Names that a section of a docstring lists."""
    found = re.search(rf"^{section}:\n((?:[ ]{{4}}.*\n?|\n)+)", docstring, re.MULTILINE)
    return re.findall(r"^ {4}\*{0,2}(\w+(?:, \w+)*)(?: \(.*?\))?:", found[1], re.MULTILINE) if found else []


def arguments(function: FUNCTIONS) -> set[str]:
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return {arg.arg for arg in every if arg is not None} - {"self", "cls"}


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields, properties, and what methods set on `self`."""
    names = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    names |= {t.id for n in node.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    names |= {n.name for n in node.body if isinstance(n, FUNCTIONS)}
    set_here = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    return names | {n.attr for n in set_here if isinstance(n.value, ast.Name) and n.value.id == "self"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_docstring_lists_exists(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, FUNCTIONS):
            listed, there = documented(ast.get_docstring(node) or "", "Args"), arguments(node)
        elif isinstance(node, ast.ClassDef):
            init = next((n for n in node.body if isinstance(n, FUNCTIONS) and n.name == "__init__"), None)
            text, fields = ast.get_docstring(node) or "", attributes(node)
            there = fields | (arguments(init) if init else set())
            listed = documented(text, "Args") + documented(text, "Attributes")
        else:
            continue
        unknown = {name for entry in listed for name in re.split(r",\s*", entry)} - there
        assert not unknown, f"{path.name}:{node.lineno} {node.name}: {unknown} are not among {sorted(there)}"


def test_the_check_finds_what_does_not_exist():
    function = ast.parse('def f(a, *, b):\n    """F.\n\n    Args:\n        a: one.\n        c: two.\n    """').body[0]
    assert documented(ast.get_docstring(function), "Args") == ["a", "c"]
    assert arguments(function) == {"a", "b"}
