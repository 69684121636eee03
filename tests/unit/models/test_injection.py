"""Image tokens that are added to hidden states between blocks, in place of taking places in the sequence."""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from transformers.modeling_layers import GradientCheckpointingLayer

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.factories import build_components, model_factory
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import Trained, Work, step_flops
from dragonfly_lit.models.fusion import fill_slots
from dragonfly_lit.models.projector import StackProjector
from dragonfly_lit.models.tiny import tiny_config, tiny_model
from dragonfly_lit.training.sharding import compile_blocks

LOW = {"medium": False, "high": False}
SCALES = {"_target_": "dragonfly_lit.models.scales.ScalesTower", "scales": [1, 2], "feature_size": 16}
STACK = {"_target_": "dragonfly_lit.models.projector.StackProjector", "depth": 2}


def injected(**fields):
    return tiny_model(
        **{"zoom": LOW, "vision": {"image_size": 64}, "vision_tower": SCALES, "projector": STACK} | fields
    )


@pytest.fixture(scope="module")
def model():
    return injected()


def losses(model, batch):
    return model.loss_sums(**batch.model_inputs(), labels=batch.labels).token_losses


def test_an_image_takes_the_tokens_of_one_small_crop(model):
    assert model.layout.num_tokens == tiny_config(zoom=LOW).layout.num_tokens
    assert isinstance(model.projector, StackProjector)


def test_the_second_token_of_a_place_is_added_before_the_second_block(model, make):
    batch = type(make)(model).batch(make_sequence(make, model, 1))
    tokens, _ = model.encode_images(batch.pixel_values, batch.image_grids)
    first, second = tokens.chunk(2, dim=-1)
    slots = batch.outline.image_slots.view(1, -1)
    embeddings = fill_slots(model.get_input_embeddings()(batch.input_ids), slots, first)
    decoder, seen = model.get_decoder(), []
    hooks = [
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0])) for block in decoder.layers
    ]
    with torch.no_grad():
        decoder(inputs_embeds=embeddings)
        plain, seen[:] = list(seen), []
        for hook in hooks:
            hook.remove()
        hooks = [
            block.register_forward_hook(lambda _, arguments, out: seen.append(arguments[0])) for block in decoder.layers
        ]
        model(**batch.model_inputs())
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen[0], plain[0])
    expected = plain[1].clone()
    expected[0, slots[0]] += second[0]
    torch.testing.assert_close(seen[1], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen[1], plain[1])
    assert not any(block._forward_pre_hooks for block in decoder.layers)  # nothing stays behind


def make_sequence(make, model, seed, **options):
    return type(make)(model).sequence(seed, **options)


def test_packed_rows_are_padded_ones_and_each_sample_alone(model, make):
    maker = type(make)(model)
    sequences = [maker.sequence(1), maker.sequence(2, num_images=0), maker.sequence(3, num_images=2)]
    with torch.no_grad():
        alone = torch.cat([losses(model, maker.batch(one)) for one in sequences])
        torch.testing.assert_close(losses(model, maker.batch(*sequences)), alone, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(losses(model, maker.batch(sequences)), alone, atol=1e-5, rtol=1e-4)


def test_an_answer_is_the_same_with_and_without_a_cache(model, make):
    batch = type(make)(model).batch(make_sequence(make, model, 1))
    inputs = {
        "input_ids": batch.input_ids, "pixel_values": batch.pixel_values, "image_grids": batch.image_grids,
        "attention_mask": torch.ones_like(batch.input_ids), "max_new_tokens": 5, "do_sample": False,
    }  # fmt: skip
    cached, whole = (model.generate(**inputs, use_cache=flag) for flag in (True, False))
    assert torch.equal(cached, whole)
    other = injected(seed=0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name, weight in other.projector.named_parameters():
            if name.startswith("layers.1."):
                weight.zero_()
        logits = [one(**batch.model_inputs()).logits for one in (model, other)]
    assert not torch.allclose(*logits)  # what is added is read


def test_the_loss_reaches_the_layer_of_every_depth(make):
    model = injected().train()
    batch = type(make)(model).batch(make_sequence(make, model, 1))
    model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
    for name, weight in model.projector.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def gradients(model, batch):
    model.zero_grad()
    model.loss_sums(**batch.model_inputs(), labels=batch.labels).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


HOOKS_OUTSIDE = "__call__" not in vars(GradientCheckpointingLayer)


@pytest.mark.skipif(not HOOKS_OUTSIDE, reason="this transformers computes blocks again without their hooks")
@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_are_computed_again_have_the_gradients_of_others(make, reentrant):
    model = injected().train()
    batch = type(make)(model).batch(make_sequence(make, model, 1))
    plain = gradients(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for name, gradient in gradients(model, batch).items():
        assert torch.equal(gradient, plain[name]), name


def test_blocks_that_would_be_computed_again_without_the_tokens_are_refused(make, monkeypatch):
    model = injected().train()
    batch = type(make)(model).batch(make_sequence(make, model, 1))
    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", torch.nn.Module.__call__, raising=False)
    gradients(model, batch)
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match=r"^projector\.depth=2: transformers .* without the image tokens.*strategy\."):
        gradients(model, batch)


def test_compiled_blocks_read_the_tokens_of_each_batch(make, monkeypatch, unchecked):
    model = injected().train()
    batches = [type(make)(model).batch(make_sequence(make, model, number)) for number in (1, 2, 1)]
    plain = [gradients(model, batch) for batch in batches]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compile_blocks(model, "blocks", "cpu")
    for batch, expected in zip(batches, plain, strict=True):
        for name, gradient in gradients(model, batch).items():
            torch.testing.assert_close(gradient, expected[name], msg=name)
    torch._dynamo.reset()


def test_it_comes_back_from_its_folder_to_the_bit(model, make, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, DragonflyForConditionalGeneration)
    batch = type(make)(model).batch(make_sequence(make, model, 1))
    with torch.no_grad():
        assert torch.equal(model(**batch.model_inputs()).logits, again(**batch.model_inputs()).logits)
    with pytest.raises(ValueError, match=r"vision_tower|projector"):
        model.save_released(tmp_path / "released")


def test_a_step_has_the_flops_that_torch_counts(make):
    model = injected().train()
    model.vision.requires_grad_(False)
    batch = type(make)(model.train()).batch(make_sequence(make, model, 1))
    tokens = batch.input_ids.numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sums = model.loss_sums(**batch.model_inputs(), labels=batch.labels)
        sums.loss.backward()
    work = Work(images=1, tokens=tokens, pairs=tokens**2, supervised=len(sums.rows))
    trained = Trained(vision=False, projector=True, language=True)
    angles = sum(sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    flops = step_flops(model.config, work, trained, model.projector)
    assert sum(flops.values()) == counter.get_total_flops() - angles
    assert step_flops(model.config, work, trained) == flops  # as a plan has it, without a model


def test_the_cell_has_the_tokens_of_low_and_a_part_for_each_scale():
    config = compose(["experiment=zoom_ablation", "experiment/cell=injected"])
    parts = build_components(config)
    assert parts.layout.num_tokens == 18
    model = model_factory(config, parts)()
    assert isinstance(model.projector, StackProjector)
    assert model.projector.depth == 3
    assert {layer.in_features for layer in model.projector.layers} == {model.config.vision_config.hidden_size}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"projector": STACK | {"depth": 4}}, r"projector\.depth=4: the language model has \d blocks"),
        ({"projector": STACK | {"depth": 7}}, r"projector\.depth=7 does not divide features of \d+ numbers"),
        (
            {"zoom": {}, "vision": {}, "vision_tower": None},
            r"projector\.depth=2: high crops are ranked.*zoom\.top_k=null",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        injected(**fields)
