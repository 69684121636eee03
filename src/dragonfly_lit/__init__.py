"""Train, study and evaluate Dragonfly, the vision-language model that zooms into the crops that matter."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if sys.platform == "win32":
    # Locks, signals of a scheduler and reads at a place of a file, on which resuming and data rest, are POSIX's.
    raise ImportError("dragonfly_lit runs on Linux and macOS. On Windows install it in WSL 2, which is a Linux.")

from dragonfly_lit.registration import register

if TYPE_CHECKING:
    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
    from dragonfly_lit.processing.processor import DragonflyProcessor

__version__ = "0.1.0"
__all__ = ["DragonflyConfig", "DragonflyForConditionalGeneration", "DragonflyProcessor"]

_HOMES = {
    "DragonflyConfig": "dragonfly_lit.models.config",
    "DragonflyForConditionalGeneration": "dragonfly_lit.models.dragonfly",
    "DragonflyProcessor": "dragonfly_lit.processing.processor",
}


def __getattr__(name: str):
    # Lazy, so that `data_prep` and the scorers start without loading transformers.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
