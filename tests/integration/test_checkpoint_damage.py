"""A checkpoint that is not what was written is named and never loaded; what a stranger wrote into one never runs."""

import io
import json
import os
import pathlib
import pickle
import random
import shutil
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem
from training_job import PROJECTOR, run

from dragonfly_lit.app.newest import find_finished
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.checkpoint.callback import clear_unfinished, prune
from dragonfly_lit.training.checkpoint.format import CHECKSUM, FILES, own_checksum, read_info, read_state, verify
from dragonfly_lit.training.checkpoint.locate import (
    find_resume,
    list_checkpoints,
    load_weights,
    resolve,
    step_folder,
)
from dragonfly_lit.training.checkpoint.storage import DamagedCheckpointError, TensorsOnly, described_tensors

JOB: dict[str, Any] = {"groups": PROJECTOR, "steps": 3, "every": 1, "save": {"keep_last": 9}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder, **JOB)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "runs" / "run")


def edit_info(folder, change):
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def without_checksums(folder):
    """As a version before checksums wrote it."""
    edit_info(folder, lambda fields: {key: value for key, value in fields.items() if key not in (FILES, CHECKSUM)})


def damage(folder, name, how):
    path = folder / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "last byte":
        path.write_bytes(content[:-1])
    else:
        draw, changed = random.Random(0), bytearray(content)
        for place in draw.sample(range(len(content)), 64):
            changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)


FILE_NAMES = ("state.pt", "__0_0.distcp", ".metadata", "checkpoint.json")


@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("how", ["missing", "empty", "half", "last byte", "64 bits"])
def test_auto_names_the_damaged_one_and_takes_the_one_before(copy, caplog, name, how):
    newest, before = step_folder(copy, 3), step_folder(copy, 2)
    damage(newest, name, how)
    assert find_resume(copy) == before
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"resume=auto: {newest} is damaged (")
    assert said.endswith(f"{before} is taken instead.")
    found = find_finished(copy.parent)
    assert found.checkpoint is None  # the one before is not the end of the stage
    assert f" Passed over: {copy} (its last checkpoint is damaged: " in found.passed_over()
    with pytest.raises(ValueError, match=r"is damaged: |holds no complete checkpoint") as caught:
        load_weights(tiny_model(), newest)
    assert str(newest) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILE_NAMES[:3])
@pytest.mark.parametrize("how", ["missing", "empty", "half", "64 bits"])
def test_damage_is_found_in_checkpoints_of_before_checksums(copy, name, how):
    for step in (1, 2, 3):
        without_checksums(step_folder(copy, step))
    assert find_resume(copy) == step_folder(copy, 3)
    damage(step_folder(copy, 3), name, how)
    assert find_resume(copy) == step_folder(copy, 2)


def test_a_run_goes_on_from_the_whole_one_and_replaces_the_damaged(whole, copy):
    damage(step_folder(copy, 3), "__0_0.distcp", "half")
    run(copy, resume=find_resume(copy), **JOB)
    assert find_resume(copy) == step_folder(copy, 3)
    trained: Any = tiny_model()
    expected: Any = tiny_model()
    load_weights(trained, copy)
    load_weights(expected, whole)
    assert torch.equal(trained.projector.weight, expected.projector.weight)


def test_where_all_are_damaged_nothing_starts_afresh_by_itself(copy):
    for step in (1, 2, 3):
        damage(step_folder(copy, step), "state.pt", "empty")
    with pytest.raises(ValueError, match=r"no whole one before\. Repair one, or start afresh: resume=null\.$"):
        find_resume(copy)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_is_loaded(whole, tmp_path, data):
    folder = tmp_path / "flipped" / "checkpoints" / "step-00000003"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(step_folder(whole, 3), folder)
    path = folder / data.draw(st.sampled_from(FILE_NAMES))
    content = bytearray(path.read_bytes())
    places = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=64, unique=True))
    for place in places:
        content[place] ^= data.draw(st.integers(1, 255))
    before = json.loads(path.read_bytes()) if path.suffix == ".json" else None
    path.write_bytes(content)
    try:
        same = before is not None and json.loads(content) == before  # white space
    except (ValueError, RecursionError):
        same = False
    if not same:
        with pytest.raises(ValueError, match=r"is damaged|holds no complete|has checkpoint format"):
            verify(folder)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "stage",
    "model",
    "step",
    "steps",
    "groups",
    "trainable_only",
    "init_from",
    "lora_scale",
    "saved_at",
    "format",
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from((*FIELDS, "optimizer", "world_size", FILES, CHECKSUM, "another")), value=VALUES)
def test_a_value_of_another_type_is_refused_or_is_one_that_fits(copy, key, value):
    folder = step_folder(copy, 3)
    shutil.copy(step_folder(copy, 2) / "state.pt", folder)  # whatever the file says of itself, the state is another's
    without_checksums(step_folder(copy, 2))
    edit_info(folder, lambda fields: {k: v for k, v in fields.items() if k not in (FILES, CHECKSUM)} | {key: value})
    refused = ""
    try:
        info = read_info(folder)
    except ValueError as error:
        refused = str(error)
    else:
        assert key not in FIELDS or getattr(info, key) == value
    assert "\n" not in refused
    assert len(list_checkpoints(copy)) == (2 if refused else 3)
    find_resume(copy)
    find_finished(copy.parent)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}", "", "{", "\ufeff{}", "[" * 100_000])
def test_a_description_that_is_not_one_blocks_no_run(copy, content):
    (step_folder(copy, 3) / "checkpoint.json").write_text(content)
    assert find_resume(copy) == step_folder(copy, 2)
    assert find_finished(copy.parent).checkpoint is None
    with pytest.raises(ValueError, match=r"damaged|checkpoint format"):
        read_info(step_folder(copy, 3))


def test_a_key_of_a_later_version_is_no_damage_where_nothing_is_summed(copy):
    without_checksums(step_folder(copy, 3))
    edit_info(step_folder(copy, 3), lambda fields: fields | {"colour": "red"})
    assert find_resume(copy) == step_folder(copy, 3)


def test_the_newest_of_a_run_is_the_one_that_is_asked_for_even_if_it_is_damaged(copy):
    damage(step_folder(copy, 3), "state.pt", "half")
    assert resolve(copy) == step_folder(copy, 3)
    with pytest.raises(DamagedCheckpointError, match=r"step-00000003 is damaged: state\.pt has .* were written"):
        load_weights(tiny_model(), copy)


def test_a_step_back_prunes_up_to_itself_and_not_what_it_wrote(copy):
    prune(copy, 1, None, newest=step_folder(copy, 2))
    assert [info.step for _, info in list_checkpoints(copy)] == [2, 3]


def test_what_was_about_to_be_replaced_is_put_back_and_foreign_files_stay(copy):
    checkpoints = copy / "checkpoints"
    step_folder(copy, 3).rename(checkpoints / "step-00000003.replaced")
    (checkpoints / "step-00000003.partial").mkdir()
    (checkpoints / "notes.partial").write_text("mine")
    (checkpoints / "writable").write_text("mine")
    clear_unfinished(copy)
    assert find_resume(copy) == step_folder(copy, 3)
    assert {path.name for path in checkpoints.iterdir() if not path.name.startswith("step")} == {
        "notes.partial",
        "writable",
    }
    assert not (checkpoints / "step-00000003.partial").exists()


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def rewrite_description(folder, change):
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    change(metadata, next(name for name in metadata.state_dict_metadata if name.startswith("weights/projector")))
    with (folder / ".metadata").open("wb") as file:
        pickle.dump(metadata, file)
    without_checksums(folder)  # a stranger would write right ones


def bytes_that_run(folder, mark):
    """As in the case that a stranger tried: bytes with the size of a tensor."""

    def change(metadata, name):
        entry: Any = BytesStorageMetadata()
        entry.size = metadata.state_dict_metadata[name].size
        metadata.state_dict_metadata[name] = entry
        content, file = io.BytesIO(), folder / "__0_0.distcp"
        torch.save(Evil(mark), content)
        start = file.stat().st_size
        file.write_bytes(file.read_bytes() + content.getvalue())
        metadata.storage_data[MetadataIndex(name)] = _StorageInfo(file.name, start, len(content.getvalue()))

    rewrite_description(folder, change)


def tensor_that_runs(folder, mark):
    def change(metadata, name):
        content, file = io.BytesIO(), folder / "__0_0.distcp"
        torch.save(Evil(mark), content)
        start, length = file.stat().st_size, 10**5
        file.write_bytes(file.read_bytes() + content.getvalue().ljust(length, b"\0"))
        for index in metadata.storage_data:
            if index.fqn == name:
                metadata.storage_data[index] = _StorageInfo(file.name, start, length)

    rewrite_description(folder, change)


def description_that_runs(folder, mark):
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(mark)))
    without_checksums(folder)


def description_with_code_inside(folder, mark):
    rewrite_description(folder, lambda metadata, name: setattr(metadata, "planner_data", Evil(mark)))


class Reaches:
    """Takes a name from what a description may refer to."""

    def __reduce__(self):
        return getattr, (pathlib.PosixPath, "unlink")


def description_that_reaches_into_a_class(folder, mark):
    rewrite_description(folder, lambda metadata, name: setattr(metadata, "planner_data", Reaches()))


def state_that_runs(folder, mark):
    torch.save(Evil(mark), folder / "state.pt")
    without_checksums(folder)


def file_of_another_folder(folder, mark):
    (folder.parent / "secret").write_bytes((folder / "__0_0.distcp").read_bytes())

    def change(metadata, name):
        for info in metadata.storage_data.values():
            object.__setattr__(info, "relative_path", "../secret")

    rewrite_description(folder, change)


def compressed(folder, mark):
    def change(metadata, name):
        for info in metadata.storage_data.values():
            object.__setattr__(info, "transform_descriptors", ["zstd"])

    rewrite_description(folder, change)


def larger_than_its_bytes(folder, mark):
    def change(metadata, name):
        entry = metadata.state_dict_metadata[name]
        entry.size = torch.Size([10**6, 10**6])
        entry.chunks[0].sizes = entry.size

    rewrite_description(folder, change)


def with_a_hole(folder, mark):
    rewrite_description(folder, lambda metadata, name: metadata.state_dict_metadata[name].chunks.clear())


ATTACKS = [
    bytes_that_run,
    tensor_that_runs,
    description_that_runs,
    description_with_code_inside,
    description_that_reaches_into_a_class,
    file_of_another_folder,
    compressed,
    larger_than_its_bytes,
    with_a_hole,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_stranger_wrote_is_refused_in_one_line_and_does_not_run(copy, tmp_path, attack):
    folder, mark = step_folder(copy, 3), tmp_path / "ran"
    attack(folder, mark)
    for read in (
        lambda: load_weights(tiny_model(), folder),
        lambda: run(tmp_path / "on", resume=folder, **JOB),
        lambda: run(tmp_path / "from", init_from=folder, **(JOB | {"stage_name": "3"})),
    ):
        with pytest.raises(ValueError, match="is damaged") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert find_resume(copy) == step_folder(copy, 2)
    assert not mark.exists()


def test_a_description_of_an_older_python_is_read(copy, monkeypatch):
    folder = step_folder(copy, 3)
    model, again = tiny_model(), tiny_model()
    load_weights(model, folder)
    # So Python 3.11 before 3.11.4 writes the members of an enumeration.
    monkeypatch.setattr(
        _MEM_FORMAT_ENCODING, "__reduce_ex__", lambda self, _protocol: (getattr, (type(self), self.name))
    )
    rewrite_description(folder, lambda metadata, name: None)
    assert b"getattr" in (folder / ".metadata").read_bytes()
    load_weights(again, folder)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_state_of_a_stranger_does_not_run(copy, tmp_path):
    state_that_runs(step_folder(copy, 3), tmp_path / "ran")
    with pytest.raises(ValueError, match="holds more than plain types"):
        read_state(step_folder(copy, 3))
    with pytest.raises(ValueError, match="holds more than plain types"):
        run(tmp_path / "on", resume=step_folder(copy, 3), **JOB)
    assert not (tmp_path / "ran").exists()


def test_a_description_changes_no_class_of_torch(copy):
    """A pickle may set attributes of whatever it can name, of classes too."""
    code = (
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nTensorStorageMetadata\n"
        b"N}X\x05\x00\x00\x00stateq\x00K\x01s\x86b."
    )
    pickle.loads(code)  # so that the test is of an attack that works
    changed: Any = TensorStorageMetadata
    assert changed.state == 1
    del changed.state
    (step_folder(copy, 3) / ".metadata").write_bytes(code)
    with pytest.raises(DamagedCheckpointError, match=r"\.metadata cannot be read"):
        described_tensors(step_folder(copy, 3))
    assert not hasattr(TensorStorageMetadata, "state")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_description_of_any_bytes_is_read_or_refused(copy, data):
    """Where nothing is summed: a stranger's."""
    folder = step_folder(copy, 3)
    content = bytearray((step_folder(copy, 2) / ".metadata").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    (folder / ".metadata").write_bytes(content)
    refused = ""
    try:
        described_tensors(folder)
    except DamagedCheckpointError as error:
        refused = str(error)
    assert "\n" not in refused


def test_a_planner_that_meets_bytes_does_not_unpickle_them(tmp_path):
    content = io.BytesIO()
    torch.save(Evil(tmp_path / "ran"), content)
    content.seek(0)
    index, nothing = MetadataIndex("weights/x"), torch.Size([0])
    item = ReadItem(LoadItemType.BYTE_IO, index, nothing, index, nothing, nothing)
    with pytest.raises(ValueError, match="weights/x is not a tensor"):
        TensorsOnly().load_bytes(item, content)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("listed", [3, {"size": 1}, {"bytes": 1}, None, []])
def test_a_list_of_files_of_another_shape_is_damage_even_if_its_sum_is_right(copy, listed):
    folder = step_folder(copy, 3)
    fields = json.loads((folder / "checkpoint.json").read_text())
    fields["files"]["state.pt"] = listed
    fields["checksum"] = own_checksum(fields)
    (folder / "checkpoint.json").write_text(json.dumps(fields))
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint\.json does not list sizes and checksums"):
        verify(folder)
