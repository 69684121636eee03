"""The command that makes the folder of each source that a configuration of this project names."""

from __future__ import annotations

from pathlib import Path

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
OWN_COMMANDS = {"easy_vqa": "python -m data_prep demo", "probes": "python -m data_prep probes"}


def how_to_make(path: str) -> str:
    """The command that writes the shards of a folder; for one of the user's own it says which formats there are.

    Args:
        path: `data/llava_pretrain`, `data/slake/val`.
    """
    split, names = Path(path).name, (Path(path).name, Path(path).parent.name)
    for name in names:
        if name in OWN_COMMANDS:
            return OWN_COMMANDS[name]
        if name in PACK:
            given = PACK[name].replace("train.json", "validation.json") if split == "val" else PACK[name]
            licence = "own" if name == "mine" else "LICENCE"
            return f"python -m data_prep pack {given} --out {path} --source {name} --licence {licence}"
    return f"python -m data_prep pack --from FORMAT FILE --out {path} --source NAME --licence LICENCE"
