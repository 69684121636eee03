"""What the build takes along is what the tree has, and the entry points are the commands that messages name."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from dragonfly_lit.io import commands
from dragonfly_lit.serving.command import NEEDED

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOMES = {name: ROOT / home for name, home in PYPROJECT["tool"]["setuptools"]["package-dir"].items()}


def packages_of(name: str, home: Path) -> set[str]:
    return {".".join([name, *path.parent.relative_to(home).parts]) for path in home.rglob("__init__.py")}


def test_the_list_of_packages_is_what_the_tree_has():
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert set(listed) == set().union(*(packages_of(name, home) for name, home in HOMES.items()))


def test_nothing_at_the_top_level_but_the_package():
    assert {name.split(".")[0] for name in HOMES} == {"dragonfly_lit"}


def test_every_command_that_messages_name_is_an_entry_point():
    assert set(commands.ENTRY_POINTS.values()) == set(PYPROJECT["project"]["scripts"])


@pytest.mark.parametrize(
    ("started_as", "clone", "typed"),
    [
        ("/clone/train.py", True, "Make it with: python -m data_prep demo"),
        ("/venv/bin/dragonfly-train", True, "Make it with: dragonfly-data demo"),
        ("/venv/lib/dragonfly_lit/train.py", False, "Make it with: dragonfly-data demo"),
    ],
)
def test_messages_name_commands_as_the_user_types_them(started_as, clone, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started_as])
    monkeypatch.setattr(commands, "is_clone", lambda: clone)
    assert commands.as_typed("Make it with: python -m data_prep demo") == typed


def test_the_lock_has_every_pinned_version_and_a_hash_of_everything():
    entries = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^ ]+)(.*(?:\n    .*)*)", read("requirements.lock"), re.M)
    locked = {canonical(name): version for name, version, _ in entries}
    assert len(locked) > 100  # transitive packages are there
    assert all("--hash=sha256:" in rest for _, _, rest in entries)
    pinned = re.findall(r"^([\w.-]+)==(\S+)$", read("constraints.txt"), re.M)
    assert pinned
    assert {canonical(name): version for name, version in pinned}.items() <= locked.items()
    wanted = PYPROJECT["project"]["dependencies"] + [
        requirement
        for extra in ("dev", "docs")
        for requirement in PYPROJECT["project"]["optional-dependencies"][extra]
        if not requirement.startswith("dragonfly_lit")
    ]
    assert {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted} <= locked.keys()


def test_what_serve_looks_for_comes_with_its_extra():
    extra = PYPROJECT["project"]["optional-dependencies"]["serve"]
    brought = {canonical(re.match(r"[\w.-]+", requirement)[0]) for requirement in extra}
    assert {canonical(name) for name in NEEDED} == brought


def read(name: str) -> str:
    return (ROOT / name).read_text()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
