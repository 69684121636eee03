"""`dragonfly-data COMMAND`, `python -m data_prep COMMAND`: a command is a module here with `main(argv) -> int`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dragonfly_lit.io import disk
from dragonfly_lit.io.commands import (
    INTERRUPT_STATUS,
    as_typed,
    put_current_folder_on_path,
    wants_traceback,
    was_interrupted,
)
from dragonfly_lit.io.later import import_quickly

from .arguments import PARSERS

COMMANDS = {
    "demo": "pack the easy-VQA package into the shards that training reads by default",
    "pack": "pack a published data set, or your own images and texts, into shards",
    "index": "write the index files and dataset.json of shards made elsewhere",
    "lint": "read every sample of a folder of shards and list what is wrong",
    "stats": "turns, images, sizes and tokens of a folder of shards",
    "inspect": "draw a sample as the model sees it: crops by level, tokens with the supervised ones marked",
    "mix-plan": "epochs of each source, and its share of samples, tokens and images",
    "overlap": "find images of benchmarks in a training mix, and list the samples to exclude",
    "resume-check": "kill a real training run, resume it, and compare it with one that never stopped",
    "probes": "draw the questions about small details that tell the zoom variants apart",
    "pages": "draw documents with a small symbol amid their text: the zoom study's second task",
    "benchmark": "origin, licence and layout of a benchmark that evaluate.py can score",
}
RESUMES = {
    "pack": " What is packed is kept, and the same command goes on from there.",
}
"""What Ctrl-C leaves behind, where there is something to say."""
ME = "python -m data_prep"


def _usage() -> str:
    lines = [f"  {name:<14}{what}" for name, what in COMMANDS.items()]
    return "\n".join([f"usage: {as_typed(ME)} COMMAND ...", "", *lines, "", "COMMAND --help says more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the command that `argv` names; an error of a user or of a file is one line and 1."""
    put_current_folder_on_path()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        return _fail(f": {name!r} is not a command. Use one of {', '.join(COMMANDS)}.")
    try:
        if name in PARSERS and {"-h", "--help"} & set(rest):
            PARSERS[name]().parse_args(rest)
        return import_quickly(f"{__package__}.{name.replace('-', '_')}").main(rest)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = None
        return 0
    except (KeyboardInterrupt, Exception) as error:
        if was_interrupted(error):
            return _fail(f" {name}: stopped.{RESUMES.get(name, '')}", status=INTERRUPT_STATUS)
        if wants_traceback() or not isinstance(error, (ValueError, OSError)):
            raise
        told = disk.explain(error) if isinstance(error, OSError) else None
        return _fail(f" {name}: {told or ' '.join(str(error).split())}")


def _fail(message: str, status: int = 1) -> int:
    print(as_typed(f"{ME}{message}"), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
