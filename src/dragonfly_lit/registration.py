"""`import dragonfly_lit` is enough for transformers' Auto classes, in any order of imports, and stays cheap.

What transformers has loaded already learns of a Dragonfly at once, the rest when it is loaded. An import of this
package alone loads neither transformers nor torch.
"""

from __future__ import annotations

import sys
import threading
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_AUTO = "transformers.models.auto."


def register() -> None:
    """Register config, model, image processor and processor with transformers, now or when it is loaded."""
    if not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())
    _take_steps()


def _register_config() -> None:
    import_module("dragonfly_lit.models.config")  # it registers itself


def _register_model() -> None:
    import_module("dragonfly_lit.models.dragonfly")  # likewise


def _register_image_processor() -> None:
    # Here, as the next, because it wants two rooms together that do not know each other.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.processing.image_processor import DragonflyImageProcessor

    AutoImageProcessor.register(
        DragonflyConfig, image_processor_classes={"pil": DragonflyImageProcessor}, exist_ok=True
    )


def _register_processor() -> None:
    from transformers.models.auto.processing_auto import AutoProcessor

    from dragonfly_lit.models.config import DragonflyConfig
    from dragonfly_lit.processing.processor import DragonflyProcessor

    AutoProcessor.register(DragonflyConfig, DragonflyProcessor, exist_ok=True)


_pending: dict[str, Callable[[], None]] = {
    f"{_AUTO}configuration_auto": _register_config,
    f"{_AUTO}modeling_auto": _register_model,
    f"{_AUTO}image_processing_auto": _register_image_processor,
    f"{_AUTO}processing_auto": _register_processor,
}
"""What is still to be registered, by the module of transformers that must be there for it."""
_depth = threading.local()
"""How many modules of transformers and of this package are half loaded in this thread, their names not there yet."""


def _take_steps() -> None:
    for name in [name for name in _pending if name in sys.modules]:
        step = _pending.pop(name, None)
        if step is not None:
            try:
                step()
            except ImportError:  # something else is half loaded; transformers' own import must not fail by us
                _pending[name] = step


class _Watcher:
    """Leaves finding to the others, and registers once the outermost module of ours or of transformers is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _pending or not fullname.startswith(("transformers", "dragonfly_lit.")):
            return None
        # Those behind this one, an import hook of somebody else among them, find the module as they would without it.
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(fullname, path, target) for finder in behind if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            _depth.modules = getattr(_depth, "modules", 0) + 1
            try:
                execute(module)
            finally:
                _depth.modules -= 1
            if not _depth.modules:
                _take_steps()

        spec.loader.exec_module = execute_and_register  # the loader is this module's alone
        return spec
