"""Every benchmark of this package by its name: the classes with a title that the modules here define."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from dragonfly_lit.evaluation import benchmarks
from dragonfly_lit.evaluation.benchmarks.base import Benchmark


def _defined() -> Iterator[type[Benchmark]]:
    for module in iter_modules(benchmarks.__path__, f"{benchmarks.__name__}."):
        if module.name != __name__:
            for found in vars(import_module(module.name)).values():
                if isinstance(found, type) and issubclass(found, Benchmark) and found.__module__ == module.name:
                    yield found


BENCHMARKS: Mapping[str, type[Benchmark]] = {found.name: found for found in _defined() if found.title}
