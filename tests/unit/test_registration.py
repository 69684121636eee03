"""`import dragonfly_lit` alone makes transformers know a Dragonfly, before and after it, and costs next to nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch
from limits import patient

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


TRUSTING = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor
folder, again, first = sys.argv[1:]
assert "dragonfly_lit" not in sys.modules
kinds = {kind.__name__: kind for kind in (AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText,
                                          AutoProcessor, AutoImageProcessor)}
for name in (first, *kinds):
    found = kinds[name].from_pretrained(folder, trust_remote_code=True)
    assert type(found).__module__.startswith("dragonfly_lit."), type(found)
    found.save_pretrained(f"{again}/{name}")
"""


def python(code: str, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=patient(300)
    )
    assert done.returncode == status, done.stderr
    return (done.stdout if status == 0 else done.stderr).strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny_model()
    model.config.vision_source = model.config.text_config._name_or_path = str(folder)
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


def auto_map_of(file: Path) -> dict[str, str]:
    return json.loads(file.read_text())["auto_map"]


@pytest.mark.parametrize("first", ["AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor"])
def test_code_that_is_trusted_is_the_installed_package(folder, tmp_path, monkeypatch, first):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    python(TRUSTING, str(folder), str(tmp_path), first)
    for again in ("AutoModelForCausalLM", "AutoProcessor"):  # the same module again, and none of this package's source
        saved = tmp_path / again
        assert [file.name for file in saved.glob("*.py")] == ["modeling_dragonfly_lit.py"]
        assert (saved / "modeling_dragonfly_lit.py").read_bytes() == (folder / "modeling_dragonfly_lit.py").read_bytes()
    for name in ("AutoModelForCausalLM/config.json", "AutoProcessor/processor_config.json"):
        assert auto_map_of(tmp_path / name) == auto_map_of(folder / Path(name).name)
    assert {file.name for file in (tmp_path / "AutoConfig").iterdir()} == {"config.json", "modeling_dragonfly_lit.py"}


def test_a_folder_without_the_package_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    said = python(
        "import sys\nsys.modules['dragonfly_lit'] = None" + CHECK.replace("False", "True"), str(folder), status=1
    )
    assert said.splitlines()[-1] == (
        "ImportError: This model is a Dragonfly. Install the package dragonfly_lit first, as its README says."
    )


def test_a_saved_folder_names_no_path_of_the_machine(folder):
    assert not [file.name for file in folder.glob("*.json") if str(folder) in file.read_text()]
    assert f'"vision_source": "{folder.name}"' in (folder / "config.json").read_text()


def test_what_is_imported_already_runs_nothing_of_a_folder(folder, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    (theirs / "modeling_dragonfly_lit.py").write_text("raise SystemExit('code of a folder ran')")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    python("import dragonfly_lit" + CHECK.replace("False", "True"), str(theirs))  # registered classes come first


WATCHED = """
import sys

class Hook:
    seen = []

    @classmethod
    def find_spec(cls, fullname, path, target=None):
        cls.seen.append(fullname)

class Old:  # a finder of before find_spec, which import itself lets pass
    @staticmethod
    def find_module(name, path=None):
        return None

sys.meta_path[:0] = [Old, Hook] if sys.argv[1] == "before" else []
import dragonfly_lit
sys.meta_path.insert(1, Hook) if sys.argv[1] == "after" else None
import dragonfly_lit.spec.layout, transformers.utils.generic
print({"dragonfly_lit.spec.layout", "transformers.utils.generic"} <= set(Hook.seen))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_import_hook_of_somebody_else_sees_every_module(when):
    assert python(WATCHED, when) == "True"


def test_the_tests_check_shapes_as_code_runs():
    with pytest.raises(jaxtyping.TypeCheckError, match="input_ids"):
        tiny_model()(input_ids=torch.zeros(3, dtype=torch.long))
