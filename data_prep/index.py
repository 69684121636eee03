"""`index`: index files, sidecars and dataset.json of shards that another tool wrote."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from dragonfly_lit.data.index import build_index, write_dataset_file
from dragonfly_lit.data.table_files import without_shards
from dragonfly_lit.io.text import counted
from dragonfly_lit.spec.shard import DATASET_FILE

from .arguments import command_parser
from .progress import follow


def main(argv: list[str]) -> int:
    """Index every shard of the folders anew."""
    parser = command_parser("index", __doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a folder with *.tar")
    parser.add_argument("--licence", help="licence of the data (default: the one dataset.json has)")
    given = parser.parse_args(argv)
    for folder in given.folders:
        shards = sorted(folder.glob("*.tar"))
        if not shards:
            raise without_shards(folder)
        _check_own(folder / DATASET_FILE)
        entries = [build_index(shard) for shard in follow(shards, f"indexing {folder}")]
        write_dataset_file(folder, entries, licence=_licence(folder) if given.licence is None else given.licence)
        samples = sum(entry.num_samples for entry in entries)
        print(f"{folder}: {counted(len(entries), 'shard')}, {counted(samples, 'sample')}.")
    return 0


def _check_own(path: Path) -> None:
    """Raise where `path` is a file of another meaning that would be lost; a broken one of ours is written anew."""
    fields: Any = {}
    with suppress(OSError, ValueError):
        fields = json.loads(path.read_text())
    if not isinstance(fields, dict) or (fields and not {"schema_version", "shards"} & set(fields)):
        raise ValueError(f"{path} is not a list of shards, and would be lost. Move it away.")


def _licence(folder: Path) -> str:
    """What a dataset.json already says; nothing if there is none, or it is broken and so to be replaced."""
    try:
        return str(json.loads((folder / DATASET_FILE).read_text()).get("licence", ""))
    except (OSError, ValueError, AttributeError):
        return ""
