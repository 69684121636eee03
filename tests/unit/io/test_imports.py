"""A file may name classes, but it never makes us import or call what the user did not bring."""

import collections
import sys

import pytest
import torch

from dragonfly_lit.io.imports import locate
from dragonfly_lit.spec.layout import Zoom


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """A package beside the user's program that nothing has imported; importing it leaves a trace."""
    package = tmp_path / "strangers_parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("import os\nclass Part:\n    pass\n")
    (package / "broken.py").write_text("import a_module_that_is_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "strangers_parts"
    for name in [name for name in sys.modules if name.startswith("strangers_parts")]:
        del sys.modules[name]


def test_our_own_classes_and_those_of_imported_packages_are_found():
    assert locate("dragonfly_lit.spec.layout.Zoom", where="config.json") is Zoom
    assert locate("torch.nn.Linear", where="config.json") is torch.nn.Linear


def test_a_module_that_the_user_did_not_import_stays_unimported(strangers):
    with pytest.raises(
        ValueError, match=r"^run/config\.yaml: projector: .*trust=\[strangers_parts\].*--trust"
    ) as error:
        locate("strangers_parts.part.Part", where="run/config.yaml: projector")
    assert "\n" not in str(error.value)
    assert strangers not in sys.modules


def test_trusting_or_importing_it_finds_it(strangers):
    found = locate("strangers_parts.part.Part", where="x", trusted=[strangers])
    assert found.__name__ == "Part"
    assert locate("strangers_parts.part.Part", where="x") is found


@pytest.mark.parametrize(
    "path", ["os.system", "builtins.eval", "subprocess.Popen", "dragonfly_lit.io.atomic.os.system", "importlib.reload"]
)
def test_a_file_cannot_name_what_every_program_has_imported(path):
    with pytest.raises(ValueError, match=path.rsplit(".", 1)[0]):
        locate(path, where="config.json")


def test_the_way_through_a_trusted_modules_own_imports_is_refused(strangers):
    with pytest.raises(ValueError, match="has no class os"):
        locate("strangers_parts.part.os.system", where="x", trusted=[strangers])


def test_what_is_called_must_be_of_the_kind_that_is_expected():
    with pytest.raises(ValueError, match=r"is not a subclass of collections\.OrderedDict"):
        locate("torch.hub.load", where="x", base=collections.OrderedDict)


@pytest.mark.parametrize("path", ["Zoom", "", "dragonfly_lit..Zoom", "dragonfly_lit.spec.layout.Zoom()", None, 3])
def test_what_is_not_a_dotted_name_is_refused(path):
    with pytest.raises(ValueError, match="is not a dotted name"):
        locate(path, where="x")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("dragonfly_lit.spec.layout.Zooom", "has no class Zooom"),
        ("dragonfly_lit.specs.Zoom", "has no class specs"),
        ("dragonfly_lit.spec.layout", "is a module"),
        ("strangers_parts.broken.Part", "a_module_that_is_not_installed"),
        ("not_there_at_all.Part", "Start Python in the folder"),
    ],
)
def test_what_does_not_exist_is_one_line(strangers, path, message):
    with pytest.raises(ValueError, match=message) as error:
        locate(path, where="x", trusted=[strangers, "not_there_at_all"])
    assert str(error.value).startswith("x: ")
    assert "\n" not in str(error.value)
