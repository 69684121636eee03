"""The whole model: towers, gradients, training mode, text-only batches, buffers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from dragonfly_lit.models.backbones import BUILTIN, builtin_folder
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.tiny import NUM_WORDS, tiny_config, tiny_model, tiny_tokenizer
from dragonfly_lit.models.vision import VisionTower
from dragonfly_lit.spec.layout import Zoom

TOWERS = ("clip_vision_model", "siglip_vision_model")


@pytest.mark.parametrize("layer", [-2, -1, -3, 1])
@pytest.mark.parametrize("kind", TOWERS)
def test_a_truncated_tower_gives_the_hidden_state_bit_for_bit(kind, layer):
    config = tiny_config(vision={"model_type": kind}, feature_layer=layer)
    whole = AutoModel.from_config(config.vision_config).eval()
    tower = VisionTower(config).eval()
    tower.tower.load_state_dict({k: v for k, v in whole.state_dict().items() if k in tower.tower.state_dict()})
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = whole(tower.normalise(pixels), output_hidden_states=True).hidden_states[layer]
        assert torch.equal(tower(pixels), expected)
    assert expected.shape[1] == config.layout.features_per_crop


def test_a_layer_outside_the_tower_is_refused():
    with pytest.raises(ValueError, match=r"feature_layer=-5 .* 4 hidden states .* Use -4 to 3"):
        _ = tiny_config(feature_layer=-5).num_vision_layers_used


def test_another_kind_of_tower_is_refused():
    with pytest.raises(ValueError, match="clip_vision_model, siglip_vision_model"):
        tiny_model(vision={"model_type": "vit"})


def test_pixels_are_normalised_as_clip_does(model):
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.config.image_mean, model.config.image_std))
    torch.testing.assert_close(model.vision.normalise(pixels), (pixels / 255 - mean) / std, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", TOWERS)
def test_every_weight_gets_a_gradient(kind, make):
    model = tiny_model(vision={"model_type": kind}, zoom={"learned": True}).train()
    pixels = torch.randint(0, 256, (1, 13, 3, 32, 32), dtype=torch.uint8)
    ids = torch.tensor([[*model.layout.image_ids(model.config.image_token_id, model.config.newline_token_id), 1, 2, 3]])
    model(input_ids=ids, pixel_values=pixels, image_grids=torch.tensor([[[2, 2], [4, 2]]]), labels=ids).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_ranking_without_a_graph_gives_the_gradients_of_one_pass_over_all_crops(make):
    batch = make.batch(make.sequence(1), make.sequence(2))
    grads = []
    for training in (False, True):
        model = tiny_model().double().train(training)
        model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*grads, strict=True))


def test_dropped_crops_are_never_propagated_back(make):
    model = tiny_model().train()
    with_graph = []
    model.vision.register_forward_hook(lambda module, args, out: with_graph.append((len(args[0]), out.requires_grad)))
    batch = make.batch(make.sequence(1), make.sequence(2))
    model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
    assert with_graph == [(2 * 5, True), (2 * 8, False), (2 * 4, True)]


def test_a_frozen_tower_sees_all_crops_in_one_call_and_stays_in_eval_mode(make):
    model = tiny_model()
    model.vision.requires_grad_(False)
    model.train()
    calls = []
    model.vision.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    batch = make.batch(make.sequence(1), make.sequence(2))
    model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
    assert calls == [2 * 13]
    assert not any(module.training for module in model.vision.modules())
    assert model.projector.training


def test_a_batch_without_an_image_still_gives_every_weight_a_gradient(make):
    model = tiny_model(zoom={"learned": True}).train()
    batch = make.batch(make.sequence(1, num_images=0))
    sums = model.loss_sums(**batch.model_inputs(), labels=batch.labels)
    sums.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(p.grad.any() for p in model.vision.parameters())
    with torch.no_grad():
        assert torch.equal(sums.loss, model.eval().loss_sums(**batch.model_inputs(), labels=batch.labels).loss)


def test_images_go_to_their_own_rows(model, make):
    rows = [make.sequence(1), make.sequence(2, num_images=0), make.sequence(3, num_images=2)]
    with torch.no_grad():
        together = model(**make.batch(*rows).model_inputs())
        for i, row in enumerate(rows):
            alone = model(**make.batch(row).model_inputs())
            torch.testing.assert_close(together.logits[i, : len(row)], alone.logits[0], atol=2e-6, rtol=0)
    assert together.selected_crops.shape == (3, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_no_cast_touches_the_rotary_frequencies(dtype, tmp_path):
    exact = tiny_model().language.model.rotary_emb.inv_freq
    tiny_model().save_pretrained(tmp_path)
    for model in (
        tiny_model().to(dtype),
        torch.nn.Sequential(tiny_model()).to(dtype)[0],  # as a LightningModule's precision plugin does
        DragonflyForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype),
    ):
        rotary = model.language.model.rotary_emb
        assert model.dtype == dtype
        assert torch.equal(rotary.inv_freq, exact)
        assert torch.equal(rotary.original_inv_freq, exact)


def test_buffers_are_right_after_the_meta_device(model, make):
    with torch.device("meta"):
        empty = DragonflyForConditionalGeneration(tiny_config())
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(model.state_dict())
    batch = make.batch(make.sequence(1))
    with torch.no_grad():
        assert torch.equal(filled(**batch.model_inputs()).logits, model(**batch.model_inputs()).logits)


def test_a_frozen_bfloat16_language_model_takes_a_float32_projector(make):
    model = tiny_model().to(torch.bfloat16).requires_grad_(False).train()
    model.projector.float().requires_grad_(True)
    batch = make.batch(make.sequence(1))
    model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
    assert model.projector.weight.grad.dtype == torch.float32
    assert model.projector.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_gradient(make):
    batch = make.batch([make.sequence(1), make.sequence(2)])
    grads = []
    for checkpointing in (False, True):
        model = tiny_model().double().train()
        model.set_attn_implementation({"text_config": "packed_varlen"})
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*grads, strict=True))


def test_a_language_model_that_changes_its_logits_is_refused():
    with pytest.raises(ValueError, match=r"logit_scale=0\.25"):
        tiny_model(text={"model_type": "cohere", "logit_scale": 0.25})


def test_the_tiny_tokenizer_survives_a_round_trip_and_fits_the_tiny_model(model):
    tokenizer = tiny_tokenizer()
    text = "Où est le chat? \n\n 2 + 2 = 4 <|eot_id|>"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert len(tokenizer) == NUM_WORDS == model.language.vocab_size
    assert 80_000 < model.num_parameters() < 120_000


def test_a_tower_looks_at_some_crops_at_a_time_and_sees_the_same(make):
    model = tiny_model()
    pixels = make.batch(make.sequence(1, num_images=3)).pixel_values.flatten(0, 1)
    assert len(pixels) > model.vision._crops_at_once > 8
    with torch.no_grad():
        torch.testing.assert_close(model.vision(pixels), model.vision._features(pixels), atol=1e-6, rtol=0)


def test_a_model_of_pretrained_backbones_sees_no_later_word():
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tokenizer"))
    zoom = Zoom(high_crops=16, top_k=1)
    model = DragonflyForConditionalGeneration.from_backbones(
        vision=BUILTIN, language=BUILTIN, tokenizer=tokenizer, zoom=zoom
    )
    ids = torch.tensor([[105, 106, 107, 108]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits[:, :2], model(input_ids=ids[:, :2]).logits)
