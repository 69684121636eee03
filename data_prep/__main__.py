"""`python -m data_prep COMMAND`: a command is a module here with `main(argv) -> int`, imported when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "demo": "pack the easy-VQA package into the shards that training reads by default",
    "pack": "pack a published data set, or your own images and texts, into shards",
    "index": "write the index files and dataset.json of shards made elsewhere",
    "lint": "read every sample of a folder of shards and list what is wrong",
    "stats": "turns, images, sizes and tokens of a folder of shards",
    "inspect": "draw a sample as the model sees it: crops by level, tokens with the supervised ones marked",
    "mix-plan": "epochs of each source, and its share of samples, tokens and images",
    "resume-check": "kill a real training run, resume it, and compare it with one that never stopped",
    "probes": "draw the questions about small details that tell the zoom variants apart",
    "benchmark": "origin, licence and layout of a benchmark that evaluate.py can score",
}


def _usage() -> str:
    lines = [f"  {name:<14}{what}" for name, what in COMMANDS.items()]
    return "\n".join(["usage: python -m data_prep COMMAND ...", "", *lines, "", "COMMAND --help says more."])


def main(argv: list[str]) -> int:
    """Exit status of the command that `argv` names; an error of a user or of a file is one line and 1."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"python -m data_prep: {name!r} is not a command. Use one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 1
    try:
        return import_module(f".{name.replace('-', '_')}", __package__).main(rest)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = None
        return 0
    except (ValueError, OSError) as error:
        print(f"python -m data_prep {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"python -m data_prep {name}: stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
