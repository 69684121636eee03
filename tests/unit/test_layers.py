"""Dependencies point one way: an AST walk over every import of the product."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_USE = {
    "io": {"io"},
    "spec": {"spec", "io"},
    "processing": {"spec", "processing", "io"},
    "data": {"spec", "processing", "data", "io"},
    "models": {"spec", "models", "io"},
    "training": {"spec", "processing", "data", "models", "training", "io"},
    "evaluation": {"spec", "processing", "models", "evaluation", "io"},
    "app": {"spec", "processing", "data", "models", "training", "evaluation", "app", "data_prep", "io"},
    "data_prep": {"spec", "processing", "data", "data_prep", "io"},
}
CONFIGURATION_LIBRARIES = {"hydra", "omegaconf"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "data_prep" if parts[0] == "data_prep" else parts[2]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, and whether the import is lazy (inside a function)."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert room_of(path) == "data_prep", f"{path}: a relative import hides where it points"
                continue  # data_prep is `data_prep` in a clone and `dragonfly_lit.data_prep` once installed
            names = [node.module or ""]
        found += [(name, id(node) in lazy) for name in names]
    return found


FILES = [
    path
    for folder in ("src/dragonfly_lit", "data_prep")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent != ROOT / "src/dragonfly_lit"
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_dependencies_point_one_way(path):
    room = room_of(path)
    for module, lazy in imports(path):
        parts = module.split(".")
        if parts[0] == "dragonfly_lit" and len(parts) > 1:
            allowed = MAY_USE[room] | ({"app", "evaluation"} if room == "data_prep" and lazy else set())
            assert parts[1] in allowed, f"{room} may not import {module}"
        if parts[0] == "data_prep":
            assert "data_prep" in MAY_USE[room], f"{room} may not import {module}"
        if parts[0] in CONFIGURATION_LIBRARIES:
            assert room == "app", f"only app knows {parts[0]}; {path.name} imports {module}"


def circle_of(sources: dict[str, str]) -> list[str]:
    """Modules that import one another in a circle, lazily or for types alone as well; none if there is no circle."""
    graph: dict[str, set[str]] = {}
    for module, text in sources.items():
        nodes = list(ast.walk(ast.parse(text)))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= (inner & sources.keys()) or {node.module}
        graph[module] = (names & sources.keys()) - {module}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_no_module_is_part_of_an_import_circle():
    package = ROOT / "src"
    sources = {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in (package / "dragonfly_lit").rglob("*.py")
    }
    assert circle_of(sources) == []
    assert circle_of({"a": "from b import x", "b": "if TYPE_CHECKING:\n    from a import y"}) == ["a", "b", "a"]
