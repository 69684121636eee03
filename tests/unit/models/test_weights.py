"""Weights in and out: transformers' layout, fresh parts, memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModel,
)
from transformers import initialization as init

from dragonfly_lit.models.backbones import interpolate_positions
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.tiny import tiny_config, tiny_model, tiny_tokenizer
from dragonfly_lit.models.weights import stored_tensors
from dragonfly_lit.spec.layout import Zoom

ZOOM = Zoom(high_crops=8, top_k=1)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"text": {"tie_word_embeddings": True}},
        {"text": {"model_type": "qwen3"}, "vision": {"model_type": "siglip_vision_model"}},
        {"zoom": {"learned": True, "score": "max"}},
    ],
)
def test_save_pretrained_and_back_gives_the_same_logits_to_the_bit(make, tmp_path, overrides):
    model = tiny_model(seed=3, **overrides)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, DragonflyForConditionalGeneration)
    assert AutoConfig.from_pretrained(tmp_path).layout == model.config.layout
    maker = type(make)(model)
    batch = maker.batch(maker.sequence(1))
    with torch.no_grad():
        ours, theirs = (m(**batch.model_inputs()) for m in (model, again))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.selected_crops, theirs.selected_crops)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id


def released_model(**overrides):
    zoom = {"high_crops": 24, "top_k": 3, "regions": "raster"}
    return tiny_model(zoom=zoom, **overrides)


def test_a_model_that_never_had_the_last_layer_gets_one_that_hands_its_input_through(make, tmp_path):
    model = released_model()
    model.save_released(tmp_path, max_shard_size="100KB")
    again = DragonflyForConditionalGeneration.from_released(tmp_path, version="v1", dtype=torch.float32)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    tower = CLIPVisionModel(model.config.vision_config).eval()
    prefix = "image_encoder.vision_model."
    stored = {k.removeprefix(prefix): t.read() for k, t in stored_tensors(tmp_path).items() if k.startswith(prefix)}
    tower.load_state_dict(stored)
    with torch.no_grad():
        states = tower(torch.rand(1, 3, 32, 32), output_hidden_states=True).hidden_states
    assert torch.equal(states[-1], states[-2])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"zoom": {"high_crops": 24, "top_k": 3}}, r"zoom\.regions='spatial' \(released 'raster'\) differs from v1"),
        ({"text": {"model_type": "qwen3"}, "zoom": {"high_crops": 24, "top_k": 3, "regions": "raster"}}, "qwen3"),
    ],
)
def test_what_the_released_code_cannot_compute_is_refused(tmp_path, overrides, said):
    with pytest.raises(ValueError, match=said):
        tiny_model(**overrides).save_released(tmp_path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a whole CLIP and of a language model, and their weights."""
    folder = tmp_path_factory.mktemp("parts")
    config = tiny_config()
    torch.manual_seed(1)
    vision = config.vision_config.to_dict() | {"projection_dim": 16}
    text = CLIPTextConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=99
    )
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text.to_dict(), projection_dim=16))
    clip.save_pretrained(folder / "clip")
    language = AutoModelForCausalLM.from_config(tiny_config(text={"vocab_size": 256}).text_config)
    language.save_pretrained(folder / "language")
    return folder, clip, language


def assembled(parts, **options):
    folder, _, _ = parts
    options = {"vision": folder / "clip", "language": folder / "language"} | options
    return DragonflyForConditionalGeneration.from_backbones(tokenizer=tiny_tokenizer(), zoom=ZOOM, **options)


def test_fresh_models_hold_the_weights_of_their_parts(parts, tmp_path):
    _, clip, language = parts
    model = assembled(parts)
    tower = dict(clip.vision_model.named_parameters())
    assert all(torch.equal(p, tower[name]) for name, p in model.vision.tower.named_parameters())
    words = model.language.model.embed_tokens.weight
    assert torch.equal(words[:256], language.model.embed_tokens.weight)
    torch.testing.assert_close(words[256:], language.model.embed_tokens.weight.mean(0).expand(7, -1))
    assert all(
        torch.equal(p, dict(language.named_parameters())[name])
        for name, p in model.language.named_parameters()
        if "layers" in name
    )
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "vision_unused.safetensors")) > {"post_layernorm.weight"}


def test_the_projector_depends_on_the_seed_alone(parts):
    torch.manual_seed(1)
    one = assembled(parts, seed=4).projector
    torch.manual_seed(2)
    same, other = assembled(parts, seed=4).projector, assembled(parts, seed=5).projector
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)


def test_a_tower_at_another_resolution_has_its_positions_interpolated(parts):
    model = assembled(parts, image_size=48)
    assert model.layout.patches_per_side == 6
    pixels = torch.zeros(1, 13, 3, 48, 48, dtype=torch.uint8)
    tokens, _ = model.encode_images(pixels, torch.tensor([[[2, 2], [4, 2]]]))
    assert tokens.shape[1] == model.layout.num_slots


def test_interpolated_positions_keep_the_class_token_and_a_constant():
    positions = torch.cat([torch.randn(1, 4), torch.full((16, 4), 3.0)])
    resized = interpolate_positions(positions, 37, 1)
    assert torch.equal(resized[0], positions[0])
    torch.testing.assert_close(resized[1:], torch.full((36, 4), 3.0))


def test_a_part_that_is_not_there_says_what_to_give(parts, tmp_path):
    with pytest.raises(ValueError, match=r"language\.path=.*nowhere is not there"):
        assembled(parts, language=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Give vision=FOLDER"):
        assembled(parts, vision=tmp_path / "nowhere")


def test_a_language_model_that_lacks_a_weight_is_refused(parts, tmp_path):
    folder, _, language = parts
    (tmp_path / "config.json").write_text((folder / "language" / "config.json").read_text())
    state = {k: v for k, v in language.state_dict().items() if "layers.1.mlp" not in k}
    language.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"missing keys: model\.layers\.1\.mlp"):
        assembled(parts, language=tmp_path)


def test_a_file_that_was_written_again_is_not_read_at_old_offsets(parts):
    folder, _, _ = parts
    stored = stored_tensors(folder / "clip")["logit_scale"]
    stored.file.touch()
    with pytest.raises(ValueError, match="written again"):
        stored.read()


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    last = max(stored_tensors(tmp_path).values(), key=lambda tensor: tensor.offset)
    with pytest.raises(ValueError, match="cut short"):
        last.read()
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a safetensors file"):
        stored_tensors(tmp_path)


MEASURE = """
import json, resource, sys, torch
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration as Model
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def read(folder): return Model.from_released(folder, version="v1", dtype=torch.bfloat16)
tiny, *large = sys.argv[1:]
read(tiny)
before, peaks = peak(), []
for folder in large:
    model = read(folder)
    size = sum(p.numel() * 2 for p in model.parameters())
    peaks.append(peak() - before)
    del model
print(json.dumps([size, *peaks]))
"""


def as_bin(folder, target):
    """The same checkpoint in shards of the older kind."""
    shutil.copytree(folder, target)
    for file in list(target.glob("*.safetensors")):
        name = file.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
        torch.save(load_file(file), target / name)
        file.unlink()
    index = target / "model.safetensors.index.json"
    text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
    (target / "pytorch_model.bin.index.json").write_text(text)
    index.unlink()
    return target


def test_reading_a_checkpoint_takes_the_memory_of_the_model(tmp_path):
    """Float32 checkpoints of 116 MB read as bfloat16, after a tiny one has loaded all the code."""
    for name, width in (("tiny", 48), ("large", 768)):
        with init.no_init_weights():
            model = released_model(text={"hidden_size": width, "intermediate_size": 8 * width})
        model.save_released(tmp_path / name, max_shard_size="50MB")
    folders = [tmp_path / "tiny", tmp_path / "large", as_bin(tmp_path / "large", tmp_path / "bin")]
    run = subprocess.run([sys.executable, "-c", MEASURE, *folders], capture_output=True, text=True, check=True)
    size, *peaks = json.loads(run.stdout)
    assert size > 55e6
    assert max(peaks) <= 1.1 * size
