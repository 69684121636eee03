"""`dragonfly COMMAND`, `python -m dragonfly_lit COMMAND`: each command is a `main(argv)` in the room that owns it."""

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
from dragonfly_lit.io.parsers import PARSERS

COMMANDS = {
    "ask": ("dragonfly_lit.app.ask", "ask a model about an image, and draw where it looks"),
    "serve": ("dragonfly_lit.serving.command", "a model behind OpenAI's API"),
    "export": ("dragonfly_lit.app.export", "a run as a folder in transformers' or in the released layout"),
    "plan": ("dragonfly_lit.app.plan", "what a training would hold, compute and send, and what binds"),
    "compare": ("dragonfly_lit.evaluation.compare", "two or more results files side by side, with intervals"),
    "study": ("dragonfly_lit.evaluation.study.command", "a sweep as tables, curves and one HTML page"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the command that `argv` names; an error of a user or of a file is one line and 1."""
    put_current_folder_on_path()
    argv, me = list(sys.argv[1:] if argv is None else argv), as_typed("python -m dragonfly_lit")
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items()]
        print("\n".join([f"usage: {me} COMMAND ...", "", *lines, "", "COMMAND --help says more."]))
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"{me}: {name!r} is not a command. Use one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 1
    try:
        if {"-h", "--help"} & set(rest):
            PARSERS[name]().parse_args(rest)
        return import_quickly(COMMANDS[name][0]).main(rest) or 0
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = None
        return 0
    except (KeyboardInterrupt, Exception) as error:
        if was_interrupted(error):
            print(f"{me} {name}: stopped.", file=sys.stderr)
            return INTERRUPT_STATUS
        if wants_traceback() or not isinstance(error, (ValueError, OSError)):
            raise
        line = (disk.explain(error) if isinstance(error, OSError) else None) or str(error)
        print(f"{me} {name}: {as_typed(' '.join(line.split()))}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
