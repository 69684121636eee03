"""The configuration becomes objects: the only place that composes it and the only `instantiate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dragonfly_lit.app.overrides import CONF, normalize_overrides, with_search_path

Config = dict[str, Any]


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


def make(node: Mapping[str, Any], **more: Any) -> Any:
    """The object that a node with a `_target_` describes, all nodes inside it first; plain types stay plain."""
    return instantiate(node, _convert_="all", **more)
