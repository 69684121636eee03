"""Conversations as transformers and OpenAI write them; chat templates of a stranger."""

import base64
import io

import numpy as np
import pytest
import torch
from hostile import TEMPLATES

from dragonfly_lit import DragonflyProcessor
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.prompts import question_text
from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, IGNORE, IMAGE

PROMPT = question_text("How many?")


@pytest.fixture(scope="module")
def processor(tokenizer, small):
    return DragonflyProcessor(DragonflyImageProcessor.of(small), tokenizer, max_length=400)


def equal(inputs, expected) -> bool:
    return set(inputs) == set(expected) and all(torch.equal(inputs[name], expected[name]) for name in expected)


def chat(processor, content, **options):
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, **options
    )


def test_every_way_of_writing_an_image_into_a_message_is_the_same(processor, picture, tmp_path):
    image = picture(30, 20)
    file = io.BytesIO()
    image.save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    text = base64.b64encode(file.getvalue()).decode()
    parts = (
        {"type": "image", "image": image},
        {"type": "image", "image": np.asarray(image)},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "url": str(tmp_path / "a.png")},
        {"type": "image", "base64": text},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}", "detail": "auto"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{text}"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{text}"},
    )
    expected = processor(text=PROMPT, images=image)
    for part in parts:
        assert equal(chat(processor, [part, {"type": "text", "text": "How many?"}]), expected), part["type"]
    assert equal(chat(processor, [{"type": "image"}, "How many?"], images=[image]), expected)
    assert equal(chat(processor, [{"type": "image"}, "How many?"], processor_kwargs={"images": image}), expected)


def test_several_conversations_are_a_batch(processor, picture):
    part = {"type": "image", "image": picture(9, 30)}
    chats = [
        [{"role": "user", "content": [part, part, {"type": "text", "text": "How many?"}]}],
        [{"role": "user", "content": "How many?"}],
    ]
    inputs = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert equal(inputs, processor(text=[PROMPT] * 2, images=[[picture(9, 30)] * 2, None]))
    texts = processor.apply_chat_template(chats, add_generation_prompt=True)
    assert [text.count(IMAGE) for text in texts] == [2, 0]


def test_the_mask_of_the_assistant_is_what_training_supervises(processor, picture):
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture(5, 9)}, {"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Three."}]},
    ]
    options = {"tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(
        messages, return_assistant_tokens_mask=True, supervise="assistant", **options
    )
    mask = inputs["assistant_masks"]
    assert torch.equal(mask.bool(), inputs["labels"] != IGNORE)
    spoken = processor.decode(inputs["input_ids"][0][mask[0].bool()])
    assert spoken == "Two.<|eot_id|>Three.<|eot_id|>"
    assert "assistant_masks" not in processor.apply_chat_template(messages, **options)


@pytest.mark.parametrize(
    ("conversation", "said"),
    [
        ("How many?", "a conversation is a list of messages"),
        ([], "a conversation is a list of messages"),
        ([{"role": "user"}], "message 0 is not a mapping with role and content"),
        ([{"role": "user", "content": 7}], "message 0: content is a int"),
        (
            [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}],
            "a part of type 'video' is not understood",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part of type 'text' is not understood"),
        ([{"role": "user", "content": [{"type": "image", "url": "https://a.b/c.png"}]}], "nothing is fetched unasked"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_conversation_is_named(processor, conversation, said):
    with pytest.raises(ValueError, match=said) as error:
        processor.apply_chat_template(conversation, tokenize=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_hostile_template_ends_in_one_line(processor, tmp_path, template):
    processor.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    theirs = DragonflyProcessor.from_pretrained(tmp_path)
    assert theirs.chat_template == template
    with pytest.raises(ValueError, match="the chat template") as error:
        theirs.apply_chat_template([{"role": "user", "content": "How many?"}])
    assert "\n" not in str(error.value)


def test_flat_images_go_to_the_texts_by_their_placeholders(processor, picture):
    one, two, three = picture(5, 9), picture(9, 5), picture(7, 7)
    texts = [IMAGE * 2 + PROMPT, IMAGE + PROMPT]
    expected = processor(text=texts, images=[[one, two], three])
    assert equal(processor(text=texts, images=[one, two, three]), expected)
    assert equal(processor(text=[IMAGE * 3 + PROMPT], images=[one, two, three]), processor(PROMPT, [[one, two, three]]))
    stack = np.stack([np.asarray(three)] * 3)
    assert equal(processor(text=texts, images=stack), processor(text=texts, images=[[three] * 2, three]))


@pytest.mark.usefixtures("unchecked")
def test_images_may_come_first_as_in_transformers(processor, picture):
    one, two, three = picture(5, 9), picture(9, 5), picture(7, 7)
    texts = [IMAGE * 2 + PROMPT, IMAGE + PROMPT]
    assert equal(processor([one, two, three], texts), processor(text=texts, images=[[one, two], three]))


def test_tensors_arrays_and_lists_hold_the_same(processor, picture):
    texts, images = [PROMPT, PROMPT + "Two."], [picture(5, 9), None]
    tensors = processor(text=texts, images=images, supervise="assistant")
    arrays = processor(text=texts, images=images, supervise="assistant", return_tensors="np")
    lists = processor(text=texts, images=images, supervise="assistant", return_tensors=None)
    ragged = processor(text=texts, images=images, return_tensors=None, padding=False)
    for name, tensor in tensors.items():
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(arrays[name], tensor.numpy())
        assert torch.equal(torch.as_tensor(lists[name]), tensor)
    seen = tensors["attention_mask"].bool()
    assert ragged["input_ids"] == [row[mask].tolist() for row, mask in zip(tensors["input_ids"], seen, strict=True)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"return_tensors": "tf"}, "return_tensors='tf'"),
        ({"padding": False}, "return_tensors='pt', padding=False"),
        ({"truncation": True}, "would cut the tokens of an image in two"),
        ({"videos": ["a.mp4"]}, "videos= is neither"),
        ({"text_kwargs": {"padding": True}}, "give its keys as arguments"),
        ({"maxlength": 7}, "does not know maxlength=7"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_done_is_not_ignored(processor, options, said):
    with pytest.raises(ValueError, match=said):
        processor(text=PROMPT, **options)
    processor(text=PROMPT, truncation=False, add_special_tokens=False, videos=None)


def test_a_text_that_goes_on_is_not_begun_again(processor):
    begin = processor.tokenizer.convert_tokens_to_ids(BEGIN_OF_TEXT)
    whole, rest = (processor(text="red<|eot_id|>", add_special_tokens=begins) for begins in (True, False))
    assert whole["input_ids"].tolist() == [[begin, *rest["input_ids"][0].tolist()]]
    assert begin not in rest["input_ids"]
    labelled = processor(text="red<|eot_id|>", add_special_tokens=False, supervise="all")
    assert (labelled["labels"] >= 0).all()


@pytest.mark.parametrize("multiple", [None, 1, 7, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_to_a_multiple(processor, multiple, side):
    texts = [PROMPT, PROMPT + "a"]
    plain = processor(text=texts, padding_side=side)["input_ids"]
    padded = processor(text=texts, padding_side=side, pad_to_multiple_of=multiple, supervise="all")
    length = padded["input_ids"].shape[1]
    assert length % (multiple or 1) == 0
    assert length - padded["labels"].shape[1] == 0 <= length - plain.shape[1]
    assert padded["attention_mask"].sum() == processor(text=texts, supervise="all")["attention_mask"].sum()


def test_names_of_inputs_are_those_that_a_call_gives(processor, picture):
    assert set(processor(text=PROMPT, images=picture(5, 5))) == set(processor.model_input_names)


def test_nothing_to_say_is_named(processor, picture):
    with pytest.raises(ValueError, match="needs text="):
        processor(images=picture(5, 5))
