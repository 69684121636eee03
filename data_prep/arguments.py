"""What the command lines share: their names as the user types them, and `key=value` where a command composes."""

from __future__ import annotations

import argparse

from dragonfly_lit.io.commands import as_typed

CONFIG_DIR_HELP = "a folder with configuration groups of your own, as train.py takes it"


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
