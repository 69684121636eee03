"""The data of a configuration: composed for a command, opened, built."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightning import LightningDataModule

from dragonfly_lit.app.build import Config, compose, make
from dragonfly_lit.app.check import check_weights
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.factories import build_components
from dragonfly_lit.app.launch import resolve_processes
from dragonfly_lit.app.planning import cost_of
from dragonfly_lit.app.recipe import recipe_of
from dragonfly_lit.app.sizes import check_image_fits, known_folder
from dragonfly_lit.app.values import check_values
from dragonfly_lit.data.datamodule import DragonflyDataModule
from dragonfly_lit.data.dealing import FEW, fit_workers
from dragonfly_lit.data.mix import Mix
from dragonfly_lit.data.parts import missing_parts, without_missing_parts
from dragonfly_lit.io.machine import Share
from dragonfly_lit.models.backbones import builtin_folder
from dragonfly_lit.processing.sequences import SequenceBuilder

log = logging.getLogger(__name__)


def configure(overrides: list[str]) -> tuple[Config, SequenceBuilder]:
    """The configuration of a training with these overrides, and what builds its sequences; no weight is loaded.

    A named part that is not on disk is known by the `config.json` that comes with the package. The text is then counted
    with the small tokenizer of `model=tiny`, which is said.

    Args:
        overrides: as on the command line of `train.py`, `--config-dir=FOLDER` among them.

    Raises:
        ValueError: a key or a choice does not exist, a value is not one that its key can have, the folder of the
            tokenizer or of the tower is missing and not known, or an image is longer than a sample may be.
    """
    try:
        config = compose(overrides)
    except Exception as error:  # Hydra's own kinds, which only `app` knows
        raise ValueError(describe(error, "train", overrides)) from error
    check_values(config, "train")
    resolve_processes(config)
    vision, language = config["vision"], config["language"]
    vision["path"] = known_folder(vision["path"])
    if not config["model"]["released"] and (known := known_folder(language["path"])) != language["path"]:
        if language["tokenizer"] is None:
            log.warning(
                "language.path=%s is not there: text is counted with the tokenizer of model=tiny, which takes more "
                "tokens.",
                language["path"],
            )
            language["tokenizer"] = str(builtin_folder("tokenizer"))
        language["path"] = known
    for group, read in (("vision", "config.json"), ("language", "tokenizer")):
        if config[group].get("tokenizer") is None:
            try:
                check_weights(group, config[group]["path"], config)
            except ValueError as error:
                raise ValueError(f"{error} Of it this command reads the {read} only.") from error
    builder = build_components(config).builder
    check_image_fits(builder.layout.num_tokens, config["model"]["max_tokens"])
    return config, builder


def resolve_validation(config: Config) -> None:
    """`data.val` as null, in place, where no source of it has the part to validate on; what is left out is said.

    Args:
        config: resolved.
    """
    val = config["data"].get("val")
    if not val:
        log.info(
            "data.val=null: nothing is validated, so there is no val_loss. To have it, give a folder that is not "
            "trained on: 'data.val={sources: {held_out: {path: FOLDER}}, batch_size: 16}'."
        )
        return
    missing = missing_parts(val)
    if not missing:
        return
    none_left = not without_missing_parts(val)["sources"]
    log.log(
        logging.INFO if none_left else logging.WARNING,
        "%s has no part to validate on, so %s: pack --split-by COLUMN makes one; of tables it is those of the folder "
        "whose names begin with validation.",
        " and ".join(dict.fromkeys(missing)),
        "there is no val_loss" if none_left else "val_loss is that of the other sources",
    )
    if none_left:
        config["data"]["val"] = None


def build_data(config: Config, builder: SequenceBuilder, **more: Any) -> DragonflyDataModule:
    """The data module of a run.

    Args:
        config: resolved.
        builder: turns samples into sequences.
        more: arguments that replace those of `data`.
    """
    own: dict[str, Any] = {
        "builder": builder,
        "pad_id": builder.tokenizer.pad_token_id,
        "batch_size": recipe_of(config).get("batch_size"),
    }
    if (cost := cost_of(config)) is not None:
        own["cost"] = asdict(cost)  # Hydra would make a mapping of it anyway
    if config["data"].get("num_workers") is None:
        own["num_workers"] = _readers(config)
    return make(config["data"], where="data", **own | more)


def share_of(config: Config) -> Share:
    """What each process of a run may use of this machine, once it is known how many there are."""
    return Share.of(int(config["trainer"]["devices"]), on_gpu=config["trainer"]["accelerator"] == "gpu")


def _readers(config: Config) -> int:
    """As many of the readers that the machine has room for as share out the streams, or all of them."""
    readers, world = share_of(config).readers, config["trainer"]["devices"] * config["trainer"]["num_nodes"]
    return fit_workers(config["data"].get("num_streams") or FEW, world, readers) or readers


def prepare_data(data: LightningDataModule) -> None:
    """Make and open the data before a run is opened, so that what is wrong with them leaves no run behind.

    In one process of a node: Lightning makes the others wait until its own call of the same two hooks.
    """
    if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) == 0:
        data.prepare_data()
        data.setup("fit")


def opening(config: Config) -> dict[str, Any]:
    """What `open_source` is given beside a source, so that every command opens it as training does."""
    data = config["data"]
    return {
        "cache_dir": data["cache_dir"],
        "cache_bytes": int(data["cache_gb"] * 10**9),
        "max_member_bytes": int((data.get("max_member_mb") or 256) * 2**20),
    }


def train_mix(config: Config, mix: Mapping[str, Any] | None = None) -> Mix:
    """The open sources of data.train, or of a part of it."""
    data = config["data"]
    return Mix(
        make(mix or data["train"], where="data.train"),
        seed=data["seed"],
        report=lambda source, bad: log.warning("source %s: %s", source, bad),
        max_pixels=data["max_pixels"],
        **opening(config),
    )
