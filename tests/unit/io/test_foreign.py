"""Folders of a stranger: no code of theirs runs, nobody is asked, and what is wrong with them is one line."""

import ast
import builtins
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from dragonfly_lit.app.load import load_for_inference
from dragonfly_lit.io.foreign import foreign, read_json, read_model_config, read_tokenizer
from dragonfly_lit.models.backbones import builtin_folder, read_language, vision_config_of
from dragonfly_lit.models.config import DragonflyConfig
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.models.weights import stored_in, stored_tensors
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor

ROOT = Path(__file__).resolve().parents[3]
LOADERS = {"from_pretrained", "from_config"}
TRACE = "stranger-ran-code"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A model folder whose every file names code of its own, which would leave a trace; asking is an error."""
    folder = tmp_path / "stranger"
    shutil.copytree(builtin_folder("language"), folder)
    for file in builtin_folder("tokenizer").iterdir():
        shutil.copy(file, folder)
    code = f"open({str(tmp_path / TRACE)!r}, 'w')\nclass Theirs: pass\n"
    (folder / "theirs.py").write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor")
    auto_map = dict.fromkeys(names, "theirs.Theirs") | {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]}
    for name in ("config.json", "tokenizer_config.json"):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(fields | {"auto_map": auto_map}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": auto_map}))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("the user was asked on the terminal"))
    yield folder
    assert not (tmp_path / TRACE).exists()


def rewrite(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def one_line(error: pytest.ExceptionInfo) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


def test_every_call_that_may_run_code_of_a_folder_forbids_it():
    calls = []
    for home in ("src", "data_prep", "tools", "benchmarks", "examples"):
        for file in sorted((ROOT / home).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
                    given = {k.arg: k.value for k in node.keywords}.get("trust_remote_code")
                    calls.append((f"{file.relative_to(ROOT)}:{node.lineno}", given))
    refused = [place for place, given in calls if not (isinstance(given, ast.Constant) and given.value is False)]
    # The one place that hands its caller's arguments on to transformers.
    assert [place.split(":")[0] for place in refused] == ["src/dragonfly_lit/models/files.py"]
    assert len(calls) > 10


def test_an_architecture_of_their_own_is_refused_in_one_line(stranger):
    rewrite(stranger / "config.json", model_type="theirs")
    for read in (
        lambda: read_language(stranger, torch.float32),
        lambda: vision_config_of(stranger, stranger, None),
        lambda: read_model_config(stranger, where=f"language.path={stranger}"),
    ):
        with pytest.raises(ValueError, match=r"wants to run code of its own \(config\.json has an auto_map\)") as error:
            read()
        assert str(stranger) in one_line(error)


def test_an_architecture_of_transformers_is_read_without_their_code(stranger):
    assert type(read_language(stranger, torch.float32)).__module__.startswith("transformers.")
    assert type(read_tokenizer(stranger, where="language.path")).__module__.startswith("transformers.")


def test_a_part_inside_a_config_brings_no_code(stranger):
    fields = tiny_model().config.to_dict()
    fields["text_config"] = {"model_type": "clip_vision_model", "auto_map": {"AutoModelForCausalLM": "theirs.Theirs"}}
    (stranger / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"wants to run code of its own|cannot be read") as error:
        load_for_inference(stranger)
    one_line(error)


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_attention_from_a_repository_is_refused(stranger, field):
    rewrite(stranger / "config.json", **{field: "strangers/kernels"})
    with pytest.raises(ValueError, match=r"'strangers/kernels' .*repository whose code would be run") as error:
        read_language(stranger, torch.float32)
    one_line(error)
    with pytest.raises(ValueError, match="text_config names 'strangers/kernels'"):
        DragonflyConfig(text_config={"model_type": "llama", field: "strangers/kernels"})


def test_adapters_are_not_taken_for_a_model(stranger):
    (stranger / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "strangers/base"}))
    with pytest.raises(ValueError, match=r"holds adapters .*merge_and_unload") as error:
        read_language(stranger, torch.float32)
    one_line(error)


class Harmful:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize("door", ["language", "released"])
def test_a_pickle_is_not_unpickled(stranger, tmp_path, door):
    (stranger / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Harmful(tmp_path / TRACE)}, stranger / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no pickled object is loaded here") as error:
        read_language(stranger, torch.float32) if door == "language" else stored_tensors(stranger)
    one_line(error)
    (stranger / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Harmful(tmp_path / TRACE)}))
    with pytest.raises(ValueError, match=r"cannot be read|no pickled object|not plain tensors"):
        stored_in(stranger / "pytorch_model.bin")


def test_plain_tensors_in_an_old_file_are_read(stranger):
    model = read_language(stranger, torch.float32)
    (stranger / "model.safetensors").unlink()
    torch.save(model.state_dict(), stranger / "pytorch_model.bin")
    again = read_language(stranger, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_an_index_names_files_beside_it_only(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(ValueError, match="no weight_map from keys to files beside it"):
        stored_tensors(tmp_path)


def test_a_folder_of_another_model_is_not_taken_for_a_dragonfly(stranger):
    with pytest.raises(ValueError, match=r"neither a run, .* its config.json is of a llama"):
        load_for_inference(stranger)
    (stranger / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json holds a JSON list, not an object"):
        load_for_inference(stranger)


def test_errors_of_our_own_keep_their_words():
    with pytest.raises(ValueError, match=r"^language\.path=x holds adapters\.$"), foreign("language.path=x"):
        raise ValueError("language.path=x holds adapters.")
    with (
        pytest.raises(ValueError, match=r"^language\.path=x cannot be read: KeyError: 'a'\. Copy it"),
        foreign("language.path=x"),
    ):
        raise KeyError("a")
    with pytest.raises(KeyboardInterrupt), foreign("language.path=x"):
        raise KeyboardInterrupt


def exported(folder: Path) -> Path:
    model = tiny_model()
    model.save_pretrained(folder)
    DragonflyProcessor(DragonflyImageProcessor.of(model.layout), tiny_tokenizer()).save_pretrained(folder)
    return folder


SIZES = {
    "the default language, of 7 billion weights": {"text_config": {}},
    "the default tower": {"vision_config": {"model_type": "siglip_vision_model"}},
    "layers without end": {"text_config": {"num_hidden_layers": 10**9}},
    "one layer more": {"text_config": {"num_hidden_layers": 3}},
    "one layer less": {"text_config": {"num_hidden_layers": 1}},
    "wider": {"text_config": {"intermediate_size": 10**6}},
    "more words": {"text_config": {"vocab_size": 264}},
}


@pytest.mark.parametrize("change", SIZES.values(), ids=SIZES)
def test_a_config_that_is_not_of_its_weights_is_refused_before_memory_is_taken(tmp_path, change, monkeypatch):
    file = exported(tmp_path) / "config.json"
    fields = json.loads(file.read_text())
    for part, values in change.items():
        fields[part] = values if "model_type" in values or not values else fields[part] | values
    file.write_text(json.dumps(fields))
    monkeypatch.setattr(PreTrainedModel, "_finalize_model_loading", lambda *_: pytest.fail("weights were made up"))
    with pytest.raises(ValueError, match=r"not of the same model|Give the config that belongs") as error:
        load_for_inference(tmp_path)
    one_line(error)


@pytest.mark.parametrize("layers", [5, 10**9])
def test_a_language_model_larger_than_its_files_is_refused_before_memory_is_taken(stranger, monkeypatch, layers):
    if layers > 5:
        monkeypatch.setattr(PreTrainedModel, "_finalize_model_loading", lambda *_: pytest.fail("weights were made up"))
    rewrite(stranger / "config.json", num_hidden_layers=layers)
    with pytest.raises(ValueError, match=r"not of the same model|does not fit its config") as error:
        read_language(stranger, torch.float32)
    one_line(error)
    for part in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        fields = json.loads((stranger / "config.json").read_text())
        fields.pop(part)
        (stranger / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"describes a model of [\d,]+ weights or more"):
        read_language(stranger, torch.float32)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def accepted_or_one_line(read) -> None:
    try:
        read()
    except ValueError as error:
        said = str(error)
    else:
        return
    assert said
    assert "\n" not in said


@FUZZ
@given(data=st.data())
def test_a_config_of_strange_types_is_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("config")
    fields = json.loads((builtin_folder("language") / "config.json").read_text())
    key = data.draw(st.sampled_from(sorted(fields)))
    (folder / "config.json").write_text(json.dumps(fields | {key: data.draw(JSON)}))
    shutil.copy(builtin_folder("language") / "model.safetensors", folder)
    accepted_or_one_line(lambda: read_language(folder, torch.float32))


@FUZZ
@given(data=st.data())
def test_a_tokenizer_of_strange_types_is_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        fields = json.loads((builtin_folder("tokenizer") / name).read_text())
        key = data.draw(st.sampled_from(sorted(fields)))
        (folder / name).write_text(json.dumps(fields | {key: data.draw(JSON)}))
    accepted_or_one_line(lambda: read_tokenizer(folder, where="language.path=there"))


@FUZZ
@given(data=st.data())
def test_a_model_folder_of_strange_types_is_one_line(tmp_path_factory, data):
    folder = exported(tmp_path_factory.mktemp("dragonfly"))
    file = folder / data.draw(
        st.sampled_from(sorted(f.name for f in folder.glob("*.json") if f.stat().st_size < 10000))
    )
    fields = json.loads(file.read_text())
    key = data.draw(st.sampled_from(sorted(fields)))
    file.write_text(json.dumps(fields | {key: data.draw(JSON)}))
    accepted_or_one_line(lambda: load_for_inference(folder))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"null", b"{", b"[" * 100_000])
def test_json_that_is_none_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json") as error:
        read_json(tmp_path / "config.json")
    one_line(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.text(max_size=4), JSON, max_size=3) | JSON)
def test_a_safetensors_header_of_strange_types_is_one_line(tmp_path, header):
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    accepted_or_one_line(lambda: stored_in(file))
