"""Packages that are loaded at their first use: what is promised is kept, and nothing of it shows afterwards."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from dragonfly_lit.io.later import import_quickly, loaded_at_first_use

HEAVY = '''
"""Says that it is loaded."""
import builtins
builtins.loaded_heavy = getattr(builtins, "loaded_heavy", 0) + 1
__version__ = "3.0"

class Thing:
    """Something to derive from."""

def double(number):
    return 2 * number

def named(name):
    """A decorator with an argument."""
    def decorate(function):
        function.name = name
        return function
    return decorate
'''
USER = """
import heavy_package
import heavy_package.inner as inner
from heavy_package import Thing, double, named
from heavy_package.inner import value
from typing import Optional, Union

Either = Union[int, Thing]
Maybe = Optional[Thing]
has_it = hasattr(heavy_package, "double")

@named("mine")
def function(number: Thing | None = None):
    return double(number)
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    (tmp_path / "heavy_package").mkdir()
    (tmp_path / "heavy_package" / "__init__.py").write_text(HEAVY)
    (tmp_path / "heavy_package" / "inner.py").write_text("value = [1, 2, 3]\n")
    (tmp_path / "user_of_heavy.py").write_text(USER)
    (tmp_path / "derives_from_heavy.py").write_text("from heavy_package import Thing\nclass Mine(Thing): pass\n")
    (tmp_path / "needs_at_once.py").write_text("import heavy_package.inner\nTEN = heavy_package.inner.value + [4]\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("heavy_package", "heavy_package.inner", "user_of_heavy", "derives_from_heavy", "needs_at_once")
    yield
    for name in names:
        sys.modules.pop(name, None)
    import builtins

    if hasattr(builtins, "loaded_heavy"):
        del builtins.loaded_heavy


def times_loaded() -> int:
    import builtins

    return getattr(builtins, "loaded_heavy", 0)


def test_a_package_is_loaded_when_it_is_used_and_not_before(packages):
    with loaded_at_first_use("heavy_package"):
        user = import_module("user_of_heavy")
    assert user.has_it
    assert times_loaded() == 0
    assert "heavy_package" not in sys.modules
    assert "heavy_package.inner" not in sys.modules
    assert not isinstance(3, user.Thing)
    assert times_loaded() == 0
    assert user.function(4) == 8
    assert times_loaded() == 1
    assert user.function.name == "mine"


def test_once_it_is_loaded_every_holder_has_the_package_itself(packages):
    with loaded_at_first_use("heavy_package"):
        user = import_module("user_of_heavy")
    assert user.double(1) == 2
    import heavy_package  # pyright: ignore[reportMissingImports]

    assert user.Thing is heavy_package.Thing
    assert user.heavy_package is heavy_package
    assert user.inner is heavy_package.inner
    assert user.value is heavy_package.inner.value
    assert isinstance(heavy_package.Thing(), user.Thing)
    assert times_loaded() == 1


def test_an_import_behind_the_block_finds_the_package(packages):
    with loaded_at_first_use("heavy_package"):
        user = import_module("user_of_heavy")
    import heavy_package  # pyright: ignore[reportMissingImports]

    assert heavy_package.double(3) == 6
    assert times_loaded() == 1
    assert isinstance(heavy_package.Thing(), user.Thing)
    assert issubclass(heavy_package.Thing, user.Thing)


def test_a_class_that_is_derived_from_loads_the_package_within_the_block(packages):
    with loaded_at_first_use("heavy_package"):
        derived = import_module("derives_from_heavy")
        assert times_loaded() == 1
    assert derived.Mine.__mro__[1] is sys.modules["heavy_package"].Thing


@pytest.mark.parametrize("around", ["heavy_package", "heavy_package.inner"])
@pytest.mark.parametrize("within", ["heavy_package", "heavy_package.inner"])
def test_a_block_within_a_block_keeps_the_promises_of_both(packages, around, within):
    with loaded_at_first_use(around):
        with loaded_at_first_use(within):
            user = import_module("user_of_heavy")
            derived = import_module("derives_from_heavy")
        assert derived.Mine.__mro__[1] is sys.modules["heavy_package"].Thing
    import heavy_package  # pyright: ignore[reportMissingImports]

    assert user.double(2) == 4
    assert list(user.value) == heavy_package.inner.value
    assert user.Thing is heavy_package.Thing
    assert times_loaded() == 1


def test_a_module_that_needs_more_than_names_is_imported_as_it_is(packages):
    assert import_quickly("needs_at_once", ("heavy_package",)).TEN == [1, 2, 3, 4]


def test_what_is_not_installed_is_not_found(packages):
    with loaded_at_first_use("a_package_that_is_not_there"):
        assert find_spec("a_package_that_is_not_there") is None
        with pytest.raises(ModuleNotFoundError):
            import_module("a_package_that_is_not_there.part")


def test_what_is_loaded_already_stays_as_it_is(packages):
    import heavy_package  # pyright: ignore[reportMissingImports]

    with loaded_at_first_use("heavy_package"):
        assert import_module("user_of_heavy").Thing is heavy_package.Thing
