"""The processor in transformers' manner."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoProcessor

from dragonfly_lit import DragonflyProcessor
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.prompts import question_text
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, IMAGE

PROMPT = question_text("How many?")


@pytest.fixture(scope="module")
def processor(tokenizer, small):
    return DragonflyProcessor(DragonflyImageProcessor.of(small), tokenizer, max_length=400)


def test_it_encodes_what_the_training_stream_encodes(processor, tokenizer, small, picture):
    image = picture(33, 21)
    turns = (Turn(role="user", text="How many?", num_images=1), Turn(role="assistant", text="Two."))
    builder = SequenceBuilder(tokenizer=tokenizer, layout=small, max_tokens=400)
    sequence = builder.build(Sample(key="a", source="s", turns=turns, images=(image,)))
    inputs = processor(text=PROMPT + "Two.<|eot_id|>", images=image, supervise="assistant")
    assert torch.equal(inputs["input_ids"][0], sequence.input_ids)
    assert torch.equal(inputs["labels"][0], sequence.labels)
    assert torch.equal(inputs["question_mask"][0], sequence.question_mask)
    assert torch.equal(inputs["pixel_values"][0], sequence.crops[0].pixels)
    assert inputs["image_grids"][0].tolist() == [list(g) for g in sequence.crops[0].grids]


def test_a_mixed_batch_is_its_samples_padded_on_the_left(processor, picture):
    images = [picture(9, 30), [picture(5, 5), picture(6, 6)], None]
    texts = [PROMPT, question_text("And which of the two?"), PROMPT]
    batch = processor(text=texts, images=images)
    assert batch["pixel_values"].shape[0] == 3
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        alone = processor(text=[text], images=[image])
        seen = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][seen], alone["input_ids"][0])
        assert seen[-1]
    assert "pixel_values" not in processor(text=PROMPT)


def test_a_placeholder_is_expanded_where_it_stands(processor, picture):
    inputs = processor(text=f"{BEGIN_OF_TEXT}Left {IMAGE} right {IMAGE}", images=[picture(5, 5), picture(6, 6)])
    ids = inputs["input_ids"][0]
    assert ids[0] == processor.ids.begin
    assert (ids == processor.ids.begin).sum() == 1
    assert (ids == processor.ids.image).sum() == 2 * processor.layout.num_slots


def test_placeholders_in_front_equal_none_at_all(processor, picture):
    inputs = [processor(text=t, images=picture(5, 5))["input_ids"] for t in (PROMPT, IMAGE + PROMPT)]
    inputs.append(processor(text=IMAGE + BEGIN_OF_TEXT + PROMPT, images=picture(5, 5))["input_ids"])
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(inputs[0], inputs[2])


def test_the_chat_template_writes_the_prompt(processor, picture):
    content = [{"type": "image", "image": picture(5, 5)}, {"type": "text", "text": " How many? "}]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == IMAGE + BEGIN_OF_TEXT + PROMPT
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    expected = processor(text=PROMPT, images=picture(5, 5))
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_the_chat_template_takes_plain_text_and_several_turns(processor):
    chat = [{"role": r, "content": t} for r, t in (("system", "S"), ("user", "Q"), ("assistant", "A"))]
    turns = [f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content']}<|eot_id|>" for m in chat]
    assert processor.apply_chat_template(chat) == BEGIN_OF_TEXT + "".join(turns)


@pytest.mark.parametrize("auto", [False, True])
def test_saved_and_loaded_it_encodes_the_same(processor, picture, tmp_path, auto):
    processor.save_pretrained(tmp_path)
    again = (AutoProcessor if auto else DragonflyProcessor).from_pretrained(tmp_path)
    assert type(again) is DragonflyProcessor
    inputs, expected = (p(text=PROMPT, images=picture(30, 50)) for p in (again, processor))
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    assert again.max_length == 400
    assert again.layout == processor.layout


def test_ids_decode_to_their_text(processor):
    ids = processor(text=PROMPT)["input_ids"]
    assert processor.batch_decode(ids) == [BEGIN_OF_TEXT + PROMPT]
    assert processor.decode(ids[0], skip_special_tokens=True) == "user\n\nHow many?assistant\n\n"


def test_files_and_bytes_are_images_too(processor, picture, tmp_path):
    picture(20, 10).save(tmp_path / "a.png")
    expected = processor(text=PROMPT, images=picture(20, 10))["pixel_values"]
    file = tmp_path / "a.png"
    for image in (file, str(file), file.read_bytes()):
        assert torch.equal(processor(text=PROMPT, images=[image])["pixel_values"], expected)


def test_more_placeholders_than_images_are_named(processor, picture):
    with pytest.raises(ValueError, match=r"2 image placeholders .* but 1 images"):
        processor(text=IMAGE * 2 + PROMPT, images=picture(5, 5))
    with pytest.raises(ValueError, match=r"1 image placeholders .* but 2 images"):
        processor(text=IMAGE + PROMPT, images=[picture(5, 5), picture(5, 5)])


def test_images_and_texts_must_be_equal_in_number(processor, picture):
    with pytest.raises(ValueError, match="1 entries for 2 texts"):
        processor(text=[PROMPT, PROMPT], images=[picture(5, 5)])


def test_a_text_longer_than_the_context_is_named(processor):
    with pytest.raises(ValueError, match="more than max_length=400"):
        processor(text="word " * 500)
    with pytest.raises(ValueError, match="more than max_length=5"):
        processor(text=PROMPT, max_length=5)


def test_nothing_is_fetched(processor):
    with pytest.raises(ValueError, match="is a URL"):
        processor(text=PROMPT, images=["https://example.org/a.png"])


def test_a_damaged_image_is_named(processor):
    with pytest.raises(ValueError, match="cannot be opened"):
        processor(text=PROMPT, images=[b"no image"])
