"""Generation: batched, cached, padded on the left, stopped early."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from talkative import talkative_model

from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text

QUESTIONS = ("What is it?", "Tell me a story about a dog and a fox.", "Why?", "Which of the two is larger?")


@pytest.fixture(scope="module")
def talker():
    return talkative_model()


@pytest.fixture(scope="module")
def samples(talker):
    """The processor, and texts with one image, none, two and one."""
    processor = DragonflyProcessor(DragonflyImageProcessor.of(talker.layout), tiny_tokenizer())
    torch.manual_seed(0)
    pictures = [
        Image.fromarray(torch.randint(0, 256, (40, 60 + 30 * i, 3), dtype=torch.uint8).numpy()) for i in range(4)
    ]
    texts = [question_text(question) for question in QUESTIONS]
    return processor, texts, [pictures[:1], None, pictures[1:3], pictures[3:]]


def answers(model, processor, texts, images, **options):
    inputs = processor(text=texts, images=images, return_tensors="pt")
    options = {"max_new_tokens": 5, "do_sample": False} | options
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]


def test_a_mixed_batch_answers_as_one_by_one(talker, samples):
    processor, texts, images = samples
    together = answers(talker, processor, texts, images)
    for row, text, image in zip(together, texts, images, strict=True):
        assert row.tolist() == answers(talker, processor, [text], [image])[0].tolist()
    assert len({tuple(row.tolist()) for row in together}) > 2


def test_the_picture_changes_the_answer(talker, samples):
    processor, texts, images = samples
    one, other = (answers(talker, processor, texts[:1], [image]) for image in (images[0], images[3]))
    assert not torch.equal(one, other)


def test_a_cached_decode_equals_an_uncached_one(talker, samples):
    processor, texts, images = samples
    cached, uncached = (answers(talker, processor, texts, images, use_cache=use) for use in (True, False))
    assert torch.equal(cached, uncached)


def test_a_collator_that_joins_texts_is_told_that_it_leaves_the_question_out(talker, samples):
    processor, texts, images = samples
    inputs = processor(text=texts[:1], images=images[:1], return_tensors="pt")
    joined = {name: torch.cat([inputs[name], inputs[name][:, -1:]], 1) for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match=r"question_mask is \(1, \d+\) for tokens of \(1, \d+\)\. A collator"):
        talker(**inputs | joined)
    with torch.no_grad():  # as generation without a cache goes on
        talker(**inputs | joined)


def test_the_tower_runs_in_the_first_step_only(talker, samples):
    processor, texts, images = samples
    calls = []
    hook = talker.vision.register_forward_hook(lambda *_: calls.append(1))
    answers(talker, processor, texts, images)
    hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 2, "max_new_tokens": 4}, {"num_return_sequences": 2, "do_sample": True, "max_new_tokens": 1}],
)
def test_beams_and_several_answers_keep_the_images_of_their_row(talker, samples, options):
    processor, texts, images = samples
    torch.manual_seed(0)
    together = answers(talker, processor, texts, images, **options)
    if "num_beams" in options:
        alone = [answers(talker, processor, [t], [i], **options)[0] for t, i in zip(texts, images, strict=True)]
        assert together.tolist() == [row.tolist() for row in alone]
    assert len(together) == 4 * options.get("num_return_sequences", 1)


def test_generation_stops_at_the_end_of_the_turn(talker, samples):
    processor, texts, images = samples
    free = answers(talker, processor, texts[:1], images[:1])[0]
    stopped = answers(talker, processor, texts[:1], images[:1], eos_token_id=[int(free[4]), 258])[0]
    first = free.tolist().index(int(free[4]))
    assert stopped.tolist() == free[: first + 1].tolist()
    end = tiny_tokenizer().convert_tokens_to_ids("<|eot_id|>")
    assert end in talker.generation_config.eos_token_id


def test_generation_agrees_under_every_implementation(talker, samples):
    processor, texts, images = samples
    found = []
    for implementation in ("eager", "sdpa", "packed_varlen"):
        talker.set_attn_implementation({"text_config": implementation})
        found.append(answers(talker, processor, texts, images))
    talker.set_attn_implementation({"text_config": "sdpa"})
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_slot_is_never_generated():
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.image_token_id] = 100.0
        prompt = torch.tensor([[7, 8, 9]])
        raw = model(input_ids=prompt).logits[0, -1].abs().argmax().item()
    assert raw == model.config.image_token_id
    ids = model.generate(input_ids=prompt, max_new_tokens=5, do_sample=False)
    assert model.config.image_token_id not in ids[0].tolist()
