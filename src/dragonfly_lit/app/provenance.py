"""What the files at hand say of how a model came to be: its trainings, their data, and its scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragonfly_lit.app.load import results_root, run_of
from dragonfly_lit.app.runs import read_config
from dragonfly_lit.data.mix import shares, specs_of
from dragonfly_lit.io.foreign import foreign, read_json
from dragonfly_lit.spec.shard import DATASET_FILE
from dragonfly_lit.training.checkpoint.format import CheckpointInfo, read_info
from dragonfly_lit.training.checkpoint.locate import resolve

LOCK_FILE = "mix_lock.json"
_DEEPEST = 8
"""Runs that are followed from one to the one that it started from."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One stage of a training, as its run tells it.

    Attributes:
        config: of the run.
        info: of the checkpoint, None where none is at hand.
        sources: of its data: name, share, licence, samples, checksum and shards; None is not known.
    """

    config: Mapping[str, Any]
    info: CheckpointInfo | None
    sources: Sequence[Mapping[str, Any]]


def trainings_of(path: Path) -> list[Trained]:
    """The run that `path` is or lies in and those that it started from, the last one first; none of a model folder."""
    found: list[Trained] = []
    at: Path | None = path
    while at is not None and len(found) < _DEEPEST and (run := run_of(at)) is not None:
        config = read_config(run)
        try:
            info = read_info(resolve(at))
        except (ValueError, OSError):
            info = None
        found.append(Trained(config=config, info=info, sources=_sources(config)))
        start = info.init_from if info is not None and info.init_from else config.get("init_from")
        at = Path(start) if start and start != "auto" and Path(start).exists() else None
    return found


def scores_of(path: Path, weights: str) -> list[dict[str, Any]]:
    """The scores that lie beside a model: each benchmark's entry, with `level`, and `same` where these weights had it.

    Args:
        path: a run, a checkpoint or a model folder.
        weights: digest of the model's weights.

    Raises:
        ValueError: a results file is damaged; it is named.
    """
    found = []
    for file in sorted(results_root(path).glob("*/results.json")):
        results = read_json(file)
        with foreign(str(file)):
            same, level = results["model"].get("weights") == weights, results["bootstrap"]["level"]
            found += [entry | {"same": same, "level": level} for entry in results["benchmarks"].values()]
    return found


def write_lock(folder: Path, trainings: Sequence[Trained]) -> None:
    """Put mix_lock.json beside exported weights: every source of every stage, with its shards and their checksums.

    Args:
        folder: of the model.
        trainings: from `trainings_of`.
    """
    stages = [
        {"stage": str(trained.config["stage"]["name"]), "sources": list(trained.sources)} for trained in trainings
    ]
    lock = {"schema": 1, "stages": stages}
    (folder / LOCK_FILE).write_text(json.dumps(lock, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sources(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the folders of the sources say of themselves, where they are at hand."""
    mix = config["data"]["train"]
    try:
        found = [{"name": spec.name, **_dataset(spec.path)} for spec in specs_of(mix)]
    except ValueError:  # the data moved since, or a part of a folder went away
        found = [{"name": name, **_dataset(None)} for name in mix["sources"]]
    counts = {one["name"]: one["num_samples"] for one in found}
    share = shares(mix, counts) if all(counts.values()) else {}
    return [one | {"share": share.get(one["name"])} for one in found]


def _dataset(path: str | None) -> dict[str, Any]:
    file = Path(path or "") / DATASET_FILE
    if path is None or not file.is_file():
        return {"licence": None, "num_samples": None, "sha256": None, "shards": []}
    fields = read_json(file)
    with foreign(str(file)):
        shards = [{key: shard.get(key) for key in ("name", "num_samples", "sha256")} for shard in fields["shards"]]
        sums = [str(shard["sha256"]) for shard in shards]
        return {
            "licence": fields.get("licence"),
            "num_samples": fields.get("num_samples"),
            "sha256": hashlib.sha256("\n".join(sums).encode()).hexdigest(),
            "shards": shards,
        }
