"""Dependencies point one way and in no circle: an AST walk over every import of the project."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOMES = {
    "dragonfly_lit.conf": ROOT / "conf",
    "dragonfly_lit.data_prep": ROOT / "data_prep",
    "dragonfly_lit": ROOT / "src/dragonfly_lit",
    "tools": ROOT / "tools",
    "benchmarks": ROOT / "benchmarks",
    "my_parts": ROOT / "examples/my_parts",
}
"""Where modules lie, by the name that they are imported by; a clone's `data_prep` is the package's."""
MAY_USE = {
    "io": set(),
    "spec": {"io"},
    "processing": {"spec", "io"},
    "data": {"spec", "processing", "io"},
    "models": {"spec", "io"},
    "training": {"spec", "processing", "data", "models", "io"},
    "evaluation": {"spec", "processing", "models", "io"},
    "app": {"spec", "processing", "data", "models", "training", "evaluation", "io"},
    "serving": {"spec", "processing", "models", "app", "io"},
    "data_prep": {"spec", "processing", "data", "evaluation", "app", "io"},
}
"""The rooms that a room may import besides itself; `app` imports neither `data_prep` nor `serving`, above it."""
ABOVE = {
    "conf": set(),
    "dragonfly_lit": {"app", "models", "processing", "io"},
    "tools": set(MAY_USE),
    "benchmarks": set(MAY_USE),
    "my_parts": set(MAY_USE) - {"app"},
}
"""The same for the modules at the top of the package and for what lies beside it."""
CONFIGURATION_LIBRARIES = {"hydra", "omegaconf"}


def module_of(path: Path) -> str:
    name, home = next((name, home) for name, home in HOMES.items() if path.is_relative_to(home))
    inner = path.relative_to(home).with_suffix("").parts
    return ".".join([name, *(inner[:-1] if inner[-1] == "__init__" else inner)])


FILES = {module_of(path): path for home in HOMES.values() if home.is_dir() for path in sorted(home.rglob("*.py"))}


def room_of(module: str) -> str:
    parts = module.split(".")
    if parts[0] != "dragonfly_lit":
        return parts[0]
    is_room = len(parts) > 2 or (len(parts) == 2 and FILES.get(module, Path("x.py")).name == "__init__.py")
    return parts[1] if is_room else "dragonfly_lit"


def absolute(name: str, level: int, module: str) -> str:
    """The module that an import of `module` names, its dots and a clone's `data_prep` resolved."""
    if level:
        parts = module.split(".")
        base = parts if FILES[module].name == "__init__.py" else parts[:-1]
        name = ".".join([*base[: len(base) - level + 1], *([name] if name else [])])
    return f"dragonfly_lit.{name}" if name.split(".")[0] == "data_prep" else name


@cache
def imports_of(module: str) -> frozenset[tuple[str, bool]]:
    """Every module that `module` imports, and whether only when a function is called."""
    tree = ast.parse(FILES[module].read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, functions) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(absolute(alias.name, 0, module), id(node) in lazy) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = absolute(node.module or "", node.level, module)
            # `from package import module` and `from module import name` look alike.
            names = {f"{home}.{alias.name}" if f"{home}.{alias.name}" in FILES else home for alias in node.names}
            found |= {(name, id(node) in lazy) for name in names}
    return frozenset(found)


@pytest.mark.parametrize("module", sorted(FILES))
def test_dependencies_point_one_way(module):
    room = room_of(module)
    for name, _ in imports_of(module):
        if name.split(".")[0] in {home.split(".")[0] for home in HOMES}:
            assert room_of(name) in (MAY_USE | ABOVE)[room] | {room}, f"{room} may not import {name}"
        if name.split(".")[0] in CONFIGURATION_LIBRARIES:
            assert room == "app", f"only app knows {name}; {module} imports it"


def test_a_study_is_read_by_nothing_else_of_evaluation():
    study = "dragonfly_lit.evaluation.study"
    others = [module for module in FILES if module.startswith("dragonfly_lit.") and not module.startswith(study)]
    assert [m for m in others if any(name.startswith(study) for name, _ in imports_of(m))] == []


def test_no_modules_import_one_another_in_a_circle():
    graph = {module: {name for name, _ in imports_of(module) if name in FILES} - {module} for module in FILES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_room_is_known():
    assert {room_of(module) for module in FILES} == set(MAY_USE | ABOVE)
