"""What a docstring lists under `Args:` and `Attributes:`: all parameters of the signature, fields of the class."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for folder in ("src", "data_prep", "tools", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
SECTION = re.compile(r"^(Args|Attributes):\n((?:(?:[ ]{4}.*)?\n)+)", re.MULTILINE)
NAME = re.compile(r"^ {4}\*{0,2}(\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:", re.MULTILINE)


def listed(node: ast.AST) -> dict[str, list[str]]:
    """Names by section of a docstring."""
    text = f"{ast.get_docstring(node) or ''}\n"
    return {title: ", ".join(NAME.findall(body)).replace("*", "").split(", ") for title, body in SECTION.findall(text)}


def parameters(function: ast.FunctionDef) -> set[str]:
    args = function.args
    own = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return {arg.arg for arg in own} - {"self", "cls"}


def fields(node: ast.ClassDef) -> set[str]:
    """Parameters of `__init__`, fields of a dataclass, attributes that `__init__` sets, properties."""
    found: set[str] = set()
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            found.add(inner.target.id)
        elif isinstance(inner, ast.Assign):
            found |= {target.id for target in inner.targets if isinstance(target, ast.Name)}
        elif isinstance(inner, ast.FunctionDef):
            found |= parameters(inner) if inner.name == "__init__" else {inner.name}
            found |= {n.attr for n in ast.walk(inner) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_lists_what_there_is(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and (names := listed(node).get("Args")):
            wanted = {name for name in parameters(node) if not name.startswith("_")}
            assert set(names) == wanted, f"{node.name}, line {node.lineno}"
        elif isinstance(node, ast.ClassDef):
            for names in listed(node).values():
                assert set(names) <= fields(node), f"{node.name}, line {node.lineno}"


def test_a_name_that_does_not_exist_is_found():
    node = ast.parse('def f(a, *, b):\n    """Adds.\n\n    Args:\n        a: one.\n        c: two.\n    """').body[0]
    assert isinstance(node, ast.FunctionDef)
    assert set(listed(node)["Args"]) - parameters(node) == {"c"}
