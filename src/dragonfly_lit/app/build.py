"""The configuration becomes objects: the only place that composes it and the only `instantiate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dragonfly_lit.app.overrides import CONF, normalize_overrides, with_search_path
from dragonfly_lit.app.values import Config


def compose(overrides: list[str], config: str = "train") -> Config:
    """The configuration that a command line with these overrides would get, as plain types.

    Args:
        overrides: `--config-dir=FOLDER` may be among them.
        config: `train` or `evaluate`.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra_compose(config, overrides=with_search_path(normalize_overrides(overrides, config))))


def plain(cfg: DictConfig) -> Config:
    """A configuration as nested dicts and lists, every interpolation resolved.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a mandatory value is missing.
    """
    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def make(node: Mapping[str, Any], *, where: str = "", **more: Any) -> Any:
    """The object that a node with a `_target_` describes, all nodes inside it first; plain types stay plain.

    Only for nodes of the configuration that the user has composed: it imports what they name.

    Args:
        node: plain.
        where: its key in the configuration, for errors.
        more: arguments beside those of the node.

    Raises:
        ValueError: a target cannot be imported, or does not take these arguments; names the node's key.
    """
    try:
        return instantiate(node, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | OSError):
            if not where or where.partition(".")[0] in str(cause):
                raise  # it says by itself what is wrong
            raise ValueError(f"{where}: {cause}") from error
        raise ValueError(_explain(error, node, where)) from error


def _explain(error: InstantiationException, node: Mapping[str, Any], where: str) -> str:
    """One line: the key of the node, what it names, why that could not be built."""
    inner = re.search(r"full_key: (\S+)", str(error))
    key = ".".join(part for part in (where, inner[1] if inner else "") if part)
    target = re.search(r"target '([^']+)'", str(error))
    name = target[1] if target else str(node.get("_target_"))
    reason = " ".join(str(error.__cause__ or str(error).partition("\nfull_key")[0]).split())
    if isinstance(error.__cause__, ImportError):
        reason = f"{reason} A module of your own must lie in the folder where the command runs, or be installed."
        if "not met" in reason or "locating" not in str(error):  # the target is there, a package that it needs is not
            reason = " ".join(str(error.__cause__).split())
    return f"{key}: {name.rpartition('.')[2]} cannot be built: {reason}" if key else f"{name}: {reason}"
