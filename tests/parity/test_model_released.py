"""The released models, case by case: what we compute is what the released code computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.processing.crops import cut
from dragonfly_lit.processing.images import decode

HERE = Path(__file__).parent
VERSIONS = ("v1", "v2")
CASES = [(version, case) for version in VERSIONS for case in range(6)]


@pytest.fixture(scope="module")
def released():
    """For each version: the model, the expected tensors, and the crops of every case."""
    found = {}
    for version in VERSIONS:
        folder = HERE / version
        model = DragonflyForConditionalGeneration.from_released(
            folder / "checkpoint", vision=folder / "image_encoder", version=version, dtype=torch.float32
        )
        cases = json.loads((folder / "cases.json").read_text())["cases"]
        crops = [cut(decode(folder / case["image"]), model.layout, resize="pillow") for case in cases]
        found[version] = model, load_file(folder / "expected.safetensors"), crops
    return found


def pixels_of(crops):
    grids = torch.tensor([[list(crops.grids.medium), list(crops.grids.high)]])
    return {"pixel_values": crops.pixels[None], "image_grids": grids}


@pytest.mark.parametrize(("version", "case"), CASES)
def test_our_loss_logits_and_selection_are_the_released_ones(released, version, case):
    model, expected, crops = released[version]
    with torch.no_grad():
        output = model(
            input_ids=expected[f"train_input_ids_{case}"][None],
            labels=expected[f"train_labels_{case}"][None],
            **pixels_of(crops[case]),
        )
    assert abs(output.loss - expected[f"train_loss_{case}"]) < 1e-4
    assert (output.logits[0, -24:] - expected[f"train_logits_last_{case}"]).abs().max() < 1e-4
    if version == "v1":
        assert output.selected_crops[0].tolist() == expected[f"selected_{case}"].tolist()
    else:
        assert output.selected_crops is None


@pytest.mark.parametrize(("version", "case"), CASES)
def test_our_greedy_tokens_are_the_released_ones(released, version, case):
    model, expected, crops = released[version]
    prompt, greedy = expected[f"gen_input_ids_{case}"][None], expected[f"greedy_{case}"]
    pixels = pixels_of(crops[case])
    with torch.no_grad():
        step = model(input_ids=prompt, logits_to_keep=1, **pixels)
        tokens = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            **pixels,
        )
    assert (step.logits[0, -1] - expected[f"gen_next_logits_{case}"]).abs().max() < 1e-4
    assert tokens[0, prompt.shape[1] :].tolist() == greedy.tolist()


@pytest.mark.parametrize("version", VERSIONS)
def test_save_released_writes_the_released_file_tensor_for_tensor(released, version, tmp_path):
    model, expected, crops = released[version]
    model.save_released(tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (HERE / version / "checkpoint", tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = DragonflyForConditionalGeneration.from_released(tmp_path, version=version, dtype=torch.float32)
    inputs = {"input_ids": expected["gen_input_ids_0"][None], **pixels_of(crops[0]), "logits_to_keep": 4}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again(**inputs).logits)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_save_released_after_save_pretrained_still_has_every_key(released, tmp_path):
    model, _, _ = released["v1"]
    model.save_pretrained(tmp_path / "ours")
    DragonflyForConditionalGeneration.from_pretrained(tmp_path / "ours").save_released(tmp_path / "released")
    before, after = (
        load_file(folder / "model.safetensors") for folder in (HERE / "v1" / "checkpoint", tmp_path / "released")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def rewritten(tmp_path, change):
    """The v1 checkpoint with its tensors changed, in a folder of its own."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(HERE / "v1" / "checkpoint", folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    change(folder, tensors)
    return folder


def read(folder):
    return DragonflyForConditionalGeneration.from_released(
        folder, vision=HERE / "v1" / "image_encoder", version="v1", dtype=torch.float32
    )


def shard_as_bin(folder, tensors):
    keys = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": keys[::2], "pytorch_model-00002-of-00002.bin": keys[1::2]}
    for file, some in parts.items():
        torch.save({key: tensors[key] for key in some}, folder / file)
    index = {"metadata": {}, "weight_map": {key: file for file, some in parts.items() for key in some}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def save_without_inner_prefix(folder, tensors):
    renamed = {key.replace("image_encoder.vision_model.", "image_encoder."): t for key, t in tensors.items()}
    save_file(renamed, folder / "model.safetensors")


@pytest.mark.parametrize("change", [shard_as_bin, save_without_inner_prefix])
def test_every_layout_of_the_files_gives_the_same_weights(released, tmp_path, change):
    again = read(rewritten(tmp_path, change)).state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in released["v1"][0].state_dict().items())


def test_a_missing_key_is_named(tmp_path):
    def change(folder, tensors):
        del tensors["vision_embed_tokens.bias"]
        save_file(tensors, folder / "model.safetensors")

    with pytest.raises(ValueError, match=r"lacks projector\.bias"):
        read(rewritten(tmp_path, change))


def test_an_unknown_key_is_named(tmp_path):
    def change(folder, tensors):
        save_file(tensors | {"adapter.weight": torch.zeros(2)}, folder / "model.safetensors")

    with pytest.raises(ValueError, match=r"unknown adapter\.weight"):
        read(rewritten(tmp_path, change))


def test_a_wrong_shape_names_both(tmp_path):
    def change(folder, tensors):
        save_file(tensors | {"vision_embed_tokens.bias": torch.zeros(65)}, folder / "model.safetensors")

    with pytest.raises(ValueError, match=r"vision_embed_tokens\.bias has shape \(65,\), .* \(64,\)"):
        read(rewritten(tmp_path, change))


def test_a_shard_that_lacks_what_the_index_promises_is_named(tmp_path):
    def change(folder, tensors):
        shard_as_bin(folder, tensors)
        torch.save({}, folder / "pytorch_model-00002-of-00002.bin")

    with pytest.raises(ValueError, match=r"pytorch_model-00002-of-00002\.bin lacks"):
        read(rewritten(tmp_path, change))


def test_a_missing_shard_is_named(tmp_path):
    def change(folder, tensors):
        shard_as_bin(folder, tensors)
        (folder / "pytorch_model-00001-of-00002.bin").unlink()

    with pytest.raises(ValueError, match=r"pytorch_model-00001-of-00002\.bin is missing"):
        read(rewritten(tmp_path, change))


def test_a_tower_without_a_config_says_what_to_give(tmp_path):
    folder = rewritten(tmp_path, lambda folder, tensors: save_file(tensors, folder / "model.safetensors"))
    with pytest.raises(ValueError, match="Give vision=FOLDER"):
        DragonflyForConditionalGeneration.from_released(folder, version="v1")


def test_an_unknown_version_names_those_there_are():
    with pytest.raises(ValueError, match="v1, v2"):
        DragonflyForConditionalGeneration.from_released(
            HERE / "v1" / "checkpoint", vision=HERE / "v1" / "image_encoder", version="v3"
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_skeleton_of_a_released_model_is_built_without_its_weights(released, version, tmp_path):
    shutil.copytree(HERE / version / "checkpoint", tmp_path / "checkpoint")
    for file in (tmp_path / "checkpoint").glob("*.safetensors"):
        file.unlink()
    skeleton = DragonflyForConditionalGeneration.from_released(
        tmp_path / "checkpoint",
        vision=HERE / version / "image_encoder",
        version=version,
        dtype=torch.float32,
        device="meta",
    )
    model = released[version][0]
    assert all(weight.is_meta for weight in skeleton.parameters())
    assert [(n, p.shape) for n, p in skeleton.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
    assert skeleton.generation_config.to_dict() == model.generation_config.to_dict()
