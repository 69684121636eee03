import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dragonfly_lit.evaluation import lmms_eval as adapter
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor


class lmms:  # noqa: N801 - lmms-eval's own name
    """What lmms-eval 0.7.3 gives a model."""

    def __init__(self):
        self._rank, self._world_size = 0, 1
        self.cache_hook = SimpleNamespace(add_partial=lambda *args: None)
        self.task_dict = {}


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str


@pytest.fixture
def lmms_eval(monkeypatch):
    """A stand-in with the three names of lmms-eval that the adapter touches."""
    parts = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.models": {},
        "lmms_eval.api.model": {"lmms": lmms},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
        "accelerate": {
            "Accelerator": lambda: SimpleNamespace(process_index=0, num_processes=1, device="cpu"),
        },
    }
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    adapter._model_class.cache_clear()
    yield
    adapter._model_class.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model = tiny_model(seed=3)
    model.save_pretrained(path)
    DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer()).save_pretrained(path)
    return path


def test_the_entry_point_names_the_class(lmms_eval):
    found = adapter.manifest()
    module, _, name = found.simple_class_path.rpartition(".")
    assert found.model_id == "dragonfly_lit"
    assert issubclass(getattr(sys.modules[module], name), lmms)
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        adapter.__getattr__("Other")


def test_the_package_declares_the_entry_point():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lmms_eval.models"] == {"dragonfly_lit": f"{adapter.__name__}:manifest"}


def test_requests_get_the_answers_of_our_own_generator(lmms_eval, folder):
    pictures = [
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)) for i in range(3)
    ]
    model = adapter.DragonflyLit(str(folder), device="cpu", dtype="float32", batch_size=1)
    model.task_dict = {"t": {"test": pictures}}
    options = {"max_new_tokens": 4, "until": ["\n\n"], "temperature": 0}
    requests = [
        SimpleNamespace(args=(f"<image>\nWhat is {i}?", options, lambda picture: [picture], i % 3, "t", "test"))
        for i in range(5)
    ]
    requests.append(SimpleNamespace(args=("Only words.", {"max_new_tokens": 2}, lambda picture: [], 0, "t", "test")))
    outputs = model.generate_until(requests)
    generator = BatchGenerator(model.model, DragonflyProcessor.from_pretrained(folder), batch_tokens=1)
    for i, output in enumerate(outputs[:5]):
        assert [output] == adapter.answer(generator, [f"What is {i}?"], [[pictures[i % 3]]], options)
    assert len(set(outputs)) > 1
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="pretrained=nowhere is not a folder"):
        adapter.load("nowhere", device="cpu", dtype="float32", version=None, vision=None)
