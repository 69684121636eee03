"""`python -m data_prep benchmark NAME`: a benchmark's origin, licence, and the layout that evaluate.py reads."""

from __future__ import annotations

from .arguments import benchmark_parser

ALL = "all"
"""In place of a name: every benchmark's description."""


def describe(name: str) -> str:
    """What a user must know to lay the data down, as the benchmark's class says it.

    Raises:
        ValueError: there is no benchmark of that name.
    """
    from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS

    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}; use one of {', '.join(BENCHMARKS)}.")
    benchmark = BENCHMARKS[name]
    counts = "; ".join(
        f"{split} {' or '.join(f'{number:,}' for number in numbers)}" for split, numbers in benchmark.counts.items()
    )
    lines = [
        ("benchmark", f"{name}: {benchmark.title}"),
        ("original", benchmark.original),
        ("hub", "; ".join(benchmark.hub)),
        ("licence", f"{benchmark.licence}; what the source itself says counts"),
        ("folder", f"data_root/{name}"),
        ("layout", benchmark.expects),
        ("questions", counts or "not verified"),
        ("verified", benchmark.verified),
        ("note", benchmark.note),
        ("run", f"python evaluate.py benchmark={name} data_root=FOLDER checkpoint=PATH"),
    ]
    return "\n".join(f"{key:<11}{text}" for key, text in lines if text)


def main(argv: list[str]) -> int:
    """Exit status; prints one benchmark, all of them, or the list of their names."""
    from dragonfly_lit.evaluation.benchmarks.registry import BENCHMARKS

    name = benchmark_parser().parse_args(argv).name
    if name == ALL:
        print("\n\n".join(describe(each) for each in BENCHMARKS))
        return 0
    if name is None:
        width = max(map(len, BENCHMARKS)) + 2
        print("\n".join(f"{key:<{width}}{benchmark.title}" for key, benchmark in BENCHMARKS.items()))
        return 0
    print(describe(name))
    return 0
