"""What a saved model carries for transformers' `trust_remote_code=True`: a module that imports this package."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

MODULE = "modeling_dragonfly_lit"
SOURCE = '''"""The classes of the installed package dragonfly_lit, for `trust_remote_code=True`."""

try:
    from dragonfly_lit import DragonflyConfig, DragonflyForConditionalGeneration, DragonflyProcessor
    from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
except ModuleNotFoundError as error:
    if error.name != "dragonfly_lit":
        raise
    raise ImportError(
        "This model is a Dragonfly. Install the package dragonfly_lit first, as its README says."
    ) from None

__all__ = ["DragonflyConfig", "DragonflyForConditionalGeneration", "DragonflyImageProcessor", "DragonflyProcessor"]
'''
"""Imports within `try` are not looked for by transformers, which would name an index that may not have the package."""


def auto_map(**classes: str) -> dict[str, str]:
    """The `auto_map` of a config file: for each Auto class the class that it means."""
    return {auto: f"{MODULE}.{name}" for auto, name in classes.items()}


def write_module(folder: str | PathLike[str]) -> None:
    """Put the module that an `auto_map` names into a folder, which is made where there is none."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{MODULE}.py").write_text(SOURCE)


class NeverCopied:
    """A class whose source transformers does not copy into what is saved of it."""

    @classmethod
    def register_for_auto_class(cls, auto_class: object = None) -> None:
        """Nothing: transformers would copy files of this package, parts of a whole, into every folder."""


class SavedWithModule(NeverCopied):
    """A class of transformers' that is saved with the module that its `auto_map` names."""

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Transformers' own, and beside it the module that `auto_map` names."""
        write_module(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
