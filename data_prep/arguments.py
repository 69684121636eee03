"""What the command lines share: their names as the user types them, and `key=value` where a command composes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from dragonfly_lit.io.amounts import count, whole
from dragonfly_lit.io.commands import as_typed

from .parallel import num_workers

CONFIG_DIR_HELP = "a folder with configuration groups of your own, as train.py takes it"
INSPECT_EXAMPLES = """examples:
  python -m data_prep inspect data/mine --sample 7
  python -m data_prep inspect --sample 7 model=dragonfly_v2 data=demo"""
OVERLAP_EXAMPLES = """examples:
  python -m data_prep overlap data=general_stage2 data_root=data --against general highres
  python -m data_prep overlap data/mine --against gqa "my_set benchmark.manifest=questions.csv" photos/test"""
MIX_PLAN_EXAMPLE = "example: python -m data_prep mix-plan data=general_stage2 stage=2 model=dragonfly_v2 trainer=gpu8"


def command_parser(name: str, description: str | None, *, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of `python -m data_prep NAME`.

    Args:
        name: of the command.
        description: what it does; the module's docstring.
        epilog: what stands below the arguments.
    """
    return argparse.ArgumentParser(
        prog=as_typed(f"python -m data_prep {name}"),
        description=as_typed(description or ""),
        epilog=as_typed(epilog or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Let a command take a training's configuration; `overrides_of` reads what was given."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="configuration as train.py takes it")
    parser.add_argument("--config-dir", help=CONFIG_DIR_HELP)


def overrides_of(given: argparse.Namespace) -> list[str]:
    """The arguments that `train.py` would be given."""
    return [*([f"--config-dir={given.config_dir}"] if given.config_dir else []), *given.overrides]


def inspect_parser() -> argparse.ArgumentParser:
    """The command line of `inspect`."""
    parser = command_parser(
        "inspect",
        "`inspect`: a sample as the model sees it: a picture of its crops by level, its tokens with the supervised "
        "marked.",
        epilog=INSPECT_EXAMPLES,
    )
    parser.add_argument(
        "given",
        nargs="*",
        metavar="FOLDER | key=value",
        help="a folder of shards (default: a source of data.train), and configuration as train.py takes it",
    )
    parser.add_argument("--config-dir", help=CONFIG_DIR_HELP)
    parser.add_argument("--folder", type=Path, help="the same as FOLDER")
    parser.add_argument("--source", help="which source of data.train (default: the first)")
    parser.add_argument("--sample", default="0", help="key, or number within the source (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("inspected"), help="folder of the files (default: inspected)")
    return parser


def mix_plan_parser() -> argparse.ArgumentParser:
    """The command line of `mix-plan`."""
    parser = command_parser(
        "mix-plan",
        "`mix-plan`: what a mix comes to: epochs of each source, and its share of samples, tokens and images.\n\n"
        "Folders that are not there yet keep their share of the samples; tokens and images are those of the others.",
        epilog=MIX_PLAN_EXAMPLE,
    )
    add_overrides(parser)
    parser.add_argument("--samples", type=count, help="draws (default: as many as the stage's steps take)")
    parser.add_argument(
        "--text",
        type=whole,
        default=128,
        help="tokens beside the image of a sample (%(default)s), where no source is there",
    )
    return parser


def benchmark_parser() -> argparse.ArgumentParser:
    """The command line of `benchmark`."""
    parser = command_parser(
        "benchmark",
        "`python -m data_prep benchmark NAME`: a benchmark's origin, licence, and the layout that evaluate.py reads.",
    )
    parser.add_argument("name", nargs="?", help="a benchmark, or all; without one, their names are listed")
    return parser


def overlap_parser() -> argparse.ArgumentParser:
    """The command line of `overlap`."""
    parser = command_parser(
        "overlap",
        "`overlap`: which images of a training mix are in the benchmarks: the same pixels, the same picture\n"
        "re-encoded, scaled, turned or mirrored, or a part of it. OUT/overlap.csv has a line for each image and\n"
        "benchmark; OUT/exclude has for each source a list that its `exclude: FILE` takes.",
        epilog=OVERLAP_EXAMPLES,
    )
    parser.add_argument(
        "given",
        nargs="*",
        metavar="FOLDER | key=value",
        help="folders of shards or tables (default: the sources of data.train), and configuration as train.py takes "
        "it; data_root is that of the benchmarks too",
    )
    parser.add_argument("--config-dir", help=CONFIG_DIR_HELP)
    parser.add_argument(
        "--against",
        nargs="+",
        required=True,
        metavar="BENCHMARK|FOLDER",
        help="a benchmark or a suite as evaluate.py has it, with its own configuration behind it in quotes, or a "
        "folder of shards, tables or images",
    )
    parser.add_argument("--out", type=Path, default=Path("overlap"), help="folder of the files (default: overlap)")
    parser.add_argument("--workers", type=count, default=num_workers(), help="processes (default: %(default)s)")
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "inspect": inspect_parser,
    "mix-plan": mix_plan_parser,
    "benchmark": benchmark_parser,
    "overlap": overlap_parser,
}
"""Of the commands that load torch before they can do anything: their --help does not."""
