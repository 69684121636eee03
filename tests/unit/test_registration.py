"""`import dragonfly_lit` alone makes transformers know a Dragonfly, before and after it, and costs next to nothing."""

import subprocess
import sys

import pytest

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor

FIRST = (
    "from transformers import AutoConfig",
    "from transformers import AutoProcessor, pipeline",
    "import peft",
    "import dragonfly_lit.models.backbones",
    "import dragonfly_lit.processing.processor",
)
"""What may be imported before; each loads transformers' modules in an order of its own, some of them half."""
CHECK = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
folder = sys.argv[1]
names = [type(auto.from_pretrained(folder, trust_remote_code=False)).__name__ for auto in
         (AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor)]
from transformers.models.auto.image_processing_auto import AutoImageProcessor
names.append(type(AutoImageProcessor.from_pretrained(folder)).__name__)
print(*names, len(AutoTokenizer.from_pretrained(folder)))
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.save_pretrained(folder)
    DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("first", FIRST)
def test_the_auto_classes_know_a_dragonfly_in_any_order_of_imports(folder, first, ours_first):
    if "peft" in first:
        pytest.importorskip("peft")
    lines = ["import dragonfly_lit", first]
    said = python("\n".join(lines if ours_first else lines[::-1]) + CHECK, str(folder))
    assert said.splitlines()[-1].split() == [
        "DragonflyConfig",
        "DragonflyForConditionalGeneration",
        "DragonflyForConditionalGeneration",
        "DragonflyProcessor",
        "DragonflyImageProcessor",
        "263",
    ]


def test_an_import_of_the_package_loads_no_heavy_library():
    heavy = ("torch", "transformers", "numpy", "PIL", "lightning", "hydra")
    assert python(f"import sys, dragonfly_lit; print([m for m in {heavy} if m in sys.modules])") == "[]"
