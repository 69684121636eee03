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


def two_pictures():
    draw = np.random.default_rng(7)
    return [Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(2)]


@pytest.mark.parametrize(
    ("prompt", "words", "places", "order"),
    [
        ("<image>\nWhat is left of <image>?", "\nWhat is left of ?", (0, 17), [0, 1]),
        ("Is <image 2> older than <image 1>?", "Is  older than ?", (3, 15), [1, 0]),
        ("<image><image>\nWhich?", "Which?", (0, 0), [0, 1]),
        ("<image 1>\n<image 2>\nWhich?", "Which?", (0, 0), [0, 1]),
        ("Which?", "Which?", (), [0, 1]),
        ("Which <image>?", "Which ?", (), [0, 1]),
        ("Which <image 1> or <image 1>?", "Which or ?", (), [0, 1]),
    ],
)
def test_placeholders_are_places_where_the_model_has_images_in_place(folder, monkeypatch, prompt, words, places, order):
    from_folder = DragonflyProcessor.from_pretrained(folder)
    in_place = DragonflyProcessor(from_folder.image_processor, from_folder.tokenizer, images="in_place")
    pictures, model = two_pictures(), tiny_model(seed=3)
    seen = []
    plan = BatchGenerator.plan
    monkeypatch.setattr(BatchGenerator, "plan", lambda self, requests: seen.extend(requests) or plan(self, requests))
    options = {"max_new_tokens": 3}
    (said,) = adapter.answer(BatchGenerator(model, in_place, batch_tokens=4000), [prompt], [pictures], options)
    (request,) = seen
    assert (request.prompt, request.places) == (words, places)
    assert [*request.read_images()] == [adapter._png(pictures[number]) for number in order]
    assert isinstance(said, str)
    seen.clear()
    adapter.answer(BatchGenerator(model, from_folder, batch_tokens=4000), [prompt], [pictures], options)
    assert seen[0].places == ()
    assert [*seen[0].read_images()] == [adapter._png(picture) for picture in pictures], "in front, in their order"


def test_an_answer_in_place_is_that_of_the_processor(folder):
    """The same words and images as a conversation with parts, which is how the model was trained."""
    from_folder = DragonflyProcessor.from_pretrained(folder)
    processor = DragonflyProcessor(from_folder.image_processor, from_folder.tokenizer, images="in_place")
    (first, second), model = two_pictures(), tiny_model(seed=3)
    generator = BatchGenerator(model, processor, batch_tokens=4000)
    (said,) = adapter.answer(
        generator, ["Is <image 2> older than <image 1>?"], [[first, second]], {"max_new_tokens": 6}
    )
    parts = [
        {"type": "text", "text": "Is "},
        {"type": "image", "image": second},
        {"type": "text", "text": " older than "},
        {"type": "image", "image": first},
        {"type": "text", "text": "?"},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert said == processor.tokenizer.decode(new, skip_special_tokens=True).strip()
