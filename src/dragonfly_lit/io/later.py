"""Packages that libraries import only because they are installed: for a command they are loaded at their first use.

Lightning and transformers import torchmetrics, scipy, matplotlib, torchao, the compiler of torch and its sharded
tensors, which few commands touch and which take longer to load than all that a command needs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Union

SELDOM_USED = ("matplotlib", "scipy", "sklearn", "torch._dynamo", "torchao", "bitsandbytes")
"""What no command needs to start."""
SHARDED = ("torch.distributed.fsdp", "torch.distributed.tensor")
"""What only sharded weights need."""
COMPUTING = (
    "torch", "transformers", "tokenizers", "lightning", "webdataset", "data_prep",
    *(f"dragonfly_lit.{room}" for room in ("app", "data", "evaluation", "models", "processing", "training")),
    "dragonfly_lit.spec.outline", "dragonfly_lit.spec.records",
)  # fmt: skip
"""What a script that computes needs, and not to print its help."""


def import_quickly(module: str, packages: Sequence[str] = SELDOM_USED + SHARDED) -> ModuleType:
    """A module of this project's, without loading what it may never use.

    Args:
        module: dotted name.
        packages: that are loaded at their first use.
    """
    try:
        with loaded_at_first_use(*packages):
            return import_module(module)
    except (AttributeError, ImportError, TypeError):
        # Another version of a library may do more with a package while it is loaded than take names from it.
        return import_module(module)


@contextmanager
def loaded_at_first_use(*packages: str) -> Iterator[None]:
    """Whoever imports one of `packages` in the block gets a stand-in, which loads the package when it is used.

    Names that are taken from a stand-in are promises: a call of one, a class derived from one, an entry of one loads
    the package. `isinstance` does not: nothing is an instance of a class that is not loaded. Behind the block an import
    finds the package itself, and those who hold a stand-in find it through that.

    Args:
        packages: dotted names; what is loaded already stays as it is, and what is not installed is not found.
    """
    finder = _Finder([name for name in packages if name not in sys.modules and _is_installed(name)])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.active = False
        sys.meta_path.remove(finder)
        for name in packages:
            _take_away(name)


def _is_installed(package: str) -> bool:
    """Whether there is such a package, as far as that is known without loading any."""
    top = package.partition(".")[0]
    return top in sys.modules or find_spec(top) is not None


def _settle(package: str) -> None:
    """Put what was promised where the promises are, now that the package is loaded."""
    for module in list(sys.modules.values()):
        for name, held in list(vars(module).items()) if isinstance(module, ModuleType) else ():
            if type(held) is _Promise and held._module._package == package:
                setattr(module, name, held._kept())
            elif type(held) is _StandIn and held._package == package:
                setattr(module, name, import_module(held.__name__))


def _take_away(package: str) -> None:
    """Take the stand-ins of a package out of Python's list of modules, and of the modules that they hang in."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        if isinstance(sys.modules[name], _StandIn):
            del sys.modules[name]
            above, _, own = name.rpartition(".")
            if above in sys.modules and isinstance(vars(sys.modules[above]).get(own), _StandIn):
                delattr(sys.modules[above], own)


class _Finder(Loader):
    """Finds stand-ins for the modules of some packages, until one of a package is used."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = list(packages)
        self.active = True
        self.settled: set[str] = set()

    def find_spec(self, fullname: str, _path: Any, _target: Any = None) -> ModuleSpec | None:
        package = self._package_of(fullname)
        return None if package is None else ModuleSpec(fullname, self, loader_state=package, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name, spec.loader_state, self)

    def exec_module(self, module: ModuleType) -> None:
        """A stand-in has nothing to run."""

    def release(self, fullname: str) -> None:
        """Let a module, with the package of which it is, be imported from now on."""
        while package := self._package_of(fullname):
            self.packages.remove(package)
            _take_away(package)

    def _package_of(self, fullname: str) -> str | None:
        return next((name for name in self.packages if f"{fullname}.".startswith(f"{name}.")), None)


class _StandIn(ModuleType):
    """A module that is not loaded; its names are promises."""

    def __init__(self, name: str, package: str, finder: _Finder) -> None:
        super().__init__(name)
        self.__dict__["_package"], self.__dict__["_finder"] = package, finder

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":  # asked for by whoever adapts to one
            return version(self.__name__)
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} is not loaded yet and has no {name!r}")
        return getattr(self._load(), name) if self._is_loaded() else _Promise(self, (name,))

    def _is_loaded(self) -> bool:
        return not isinstance(sys.modules.get(self.__name__, self), _StandIn)

    def _load(self) -> ModuleType:
        for finder in list(sys.meta_path):  # of a block around this one too, which would give a stand-in once more
            if isinstance(finder, _Finder):
                finder.release(self.__name__)
        loaded = import_module(self.__name__)
        if not self._finder.active and self._package not in self._finder.settled:
            self._finder.settled.add(self._package)
            _settle(self._package)
        return loaded


class _Promise:
    """Something in a module that is not loaded."""

    def __init__(self, module: _StandIn, path: tuple[Any, ...]) -> None:
        self._module, self._path = module, path

    def _kept(self) -> Any:
        """What was promised, loaded now."""
        found: Any = self._module._load()
        for position, name in enumerate(self._path):
            if isinstance(name, tuple):
                found = found(*name[0], **name[1])
            elif isinstance(found, ModuleType) and not hasattr(found, name):
                found = import_module(".".join((self._module.__name__, *self._path[: position + 1])))
            else:
                found = getattr(found, name)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._kept(), name) if self._module._is_loaded() else _Promise(self._module, (*self._path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._module._finder.active and not self._module._is_loaded():  # a decorator, most often
            return _Promise(self._module, (*self._path, (args, kwargs)))
        return self._kept()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._kept()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._kept())

    def __mro_entries__(self, _bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._kept(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return self._module._is_loaded() and isinstance(instance, self._kept())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._module._is_loaded() and issubclass(subclass, self._kept())

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007  # of a type hint

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def __repr__(self) -> str:
        return f"<{self._module.__name__}: {self._path}, not loaded yet>"
