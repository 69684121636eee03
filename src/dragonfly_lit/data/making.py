"""The command that makes the folder of each source that a configuration of this project names."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

PACK = {
    "llava_pretrain": "--from llava blip_laion_cc_sbu_558k.json --images images",
    "llava_instruct": "--from llava llava_v1_5_mix665k.json --images images",
    "sharegpt4v": "--from llava FILE.json --images images",
    "documents": "--from parquet FOLDER",
    "charts": "--from parquet FOLDER",
    "text_only": "--from messages FILE.jsonl",
    "math": "--from messages FILE.jsonl",
    "llava_med": "--from llava FILE.json --images images",
    "roco": "--from roco train_captions.csv --images train",
    "vqa_rad": "--from vqa_rad FILE.json --images images --share-image",
    "slake": "--from slake train.json --images imgs --share-image",
    "path_vqa": "--from path_vqa FOLDER --share-image",
    "mine": "--from captions captions.csv --images FOLDER",
}
"""By source: what `pack` is given, as the table in data_prep/README.md has it."""
HELD_OUT = {
    "roco": {
        "validation": "--from roco valid_captions.csv --images valid",
        "test": "--from roco test_captions.csv --images test",
    },
    "slake": {
        "validation": "--from slake validation.json --images imgs --share-image",
        "test": "--from slake test.json --images imgs --share-image",
    },
}
"""By source and part: what `pack` is given for what is not trained on, where its origin has such files."""
OWN_COMMANDS = {
    "easy_vqa": "python -m data_prep demo",
    "easy_vqa_preferences": "python -m data_prep demo --preferences",
    "probes": "python -m data_prep probes",
    "pages": "python -m data_prep pages",
}


def how_to_make(path: str) -> str:
    """The command that writes the shards of a folder; for one of the user's own it says which formats there are.

    Args:
        path: `data/llava_pretrain`, `data/slake/val`.
    """
    last = Path(path).name
    for name in (last, Path(path).parent.name):
        if name in OWN_COMMANDS:
            return OWN_COMMANDS[name]
        if name in PACK:
            licence = "own" if name == "mine" else "LICENCE"
            given = _given(name, {"val": "validation"}.get(last, last))
            return f"python -m data_prep pack {given} --out {quote(path)} --source {name} --licence {licence}"
    return f"python -m data_prep pack --from FORMAT FILE --out {quote(path)} --source NAME --licence LICENCE"


def _given(name: str, part: str) -> str:
    """What `pack` is given for a part of a source; the files to train on are never told for another part."""
    if part not in ("validation", "test"):
        return PACK[name]
    known = HELD_OUT.get(name, {}).get(part)
    return known or re.sub(r" \S+(\.\w+) ", r" FILE\1 ", PACK[name])
