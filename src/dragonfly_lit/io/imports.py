"""Classes by the dotted name that a file gives them: nothing is imported because a file says so."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

OWN = "dragonfly_lit"


def locate(path: object, *, where: str, trusted: Iterable[str] = (), base: type | None = None) -> Any:
    """The class or function that `path` names.

    A file that was downloaded could name anything. So its module must be ours, or one that the user's own program has
    imported before, or one that the user trusts by name. The standard library is always imported, and holds
    `os.system`: its names are refused, and so is a way through a module's own imports (`mine.os.system`).

    Args:
        path: `package.module.Name`.
        where: the file and the key that name it, for the errors.
        trusted: modules that may be imported, by the first part of their name.
        base: the class of which it must be a subclass; give one wherever the result is called with values of the file.

    Raises:
        ValueError: the module is not to be imported, or the name does not exist or is not a subclass of `base`.
    """
    names = path.split(".") if isinstance(path, str) else []
    if not isinstance(path, str) or len(names) < 2 or not all(name.isidentifier() for name in names):
        raise ValueError(f"{where}: {path!r} is not a dotted name. Write package.module.Name.")
    top = names[0]
    imported = top in sys.modules and top not in sys.stdlib_module_names
    if top != OWN and not imported and top not in {module.split(".")[0] for module in trusted}:
        raise ValueError(
            f"{where}: {path} is not imported because a file says so. If {top} is yours, import it first in Python, "
            f"or give trust=[{top}] to train.py and evaluate.py, --trust {top} to ask and export."
        )
    found = _walk(path, names, where)
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"{where}: {path} is not a subclass of {base.__module__}.{base.__qualname__}. Derive it from it."
        )
    return found


def _walk(path: str, names: list[str], where: str) -> Any:
    """The longest module that can be imported, then its attributes."""
    found: Any = _module(names[0], path, where)
    for position, name in enumerate(names[1:], start=1):
        if isinstance(found, ModuleType):
            submodule = _module(".".join(names[: position + 1]), path, where, optional=True)
            if submodule is not None:
                found = submodule
                continue
        found = getattr(found, name, None)
        if found is None or isinstance(found, ModuleType):
            raise ValueError(f"{where}: {path} was not found: {'.'.join(names[:position])} has no class {name}.")
    if isinstance(found, ModuleType):
        raise ValueError(f"{where}: {path} is a module. Name a class in it.")
    return found


def _module(name: str, path: str, where: str, *, optional: bool = False) -> ModuleType | None:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if optional and (error.name == name or "is not a package" in str(error)):
            return None
        raise ValueError(
            f"{where}: {path} was not found ({error}). Start Python in the folder that has {name.split('.')[0]}, or "
            "install it."
        ) from error
    except ImportError as error:
        raise ValueError(f"{where}: {path} cannot be imported ({error}).") from error


def import_trusted(modules: Iterable[str]) -> None:
    """Import what the user trusts by name, so that files may name classes of it from now on.

    Raises:
        ValueError: one of them cannot be imported.
    """
    for name in modules:
        _module(name, name, "trust")
