"""A Dragonfly is a model of transformers: what its common tests of image-text-to-text models claim, on the tiny model.

Those tests (`ModelTesterMixin`, `GenerationTesterMixin`) are not in the wheel of transformers. Of what they claim, this
does not hold, and need not:

- a base model without a head (`base_model_prefix`), and the weights of one alone: there is none;
- the tower's config is the object that the model's config holds: the tower ends at the layer that is read, so it has a
  config of its own;
- words without the image's slot (a vocabulary made smaller than `image_token_id`): the slot is a word;
- a prompt in chunks (`prefill_chunk_size`) that cut an image in two, and continuous batching: an image is whole;
- embeddings of other layers (`output_hidden_states` of the tower): the tower computes only what is read;
- kernels of flash-attention, devices, DeepSpeed, quantisation: they need an accelerator.
"""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from talkative import talkative_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig

import dragonfly_lit
from dragonfly_lit import DragonflyConfig, DragonflyForConditionalGeneration
from dragonfly_lit.models.tiny import tiny_config, tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.prompts import question_text

NUM_NEW = 4


@pytest.fixture(scope="module")
def talker():
    """A tiny model whose answers depend on the picture, in eager attention, which has attentions to show."""
    model = talkative_model()
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def inputs(talker):
    """Two questions, about one image and about two, padded on the left."""
    processor = DragonflyProcessor(DragonflyImageProcessor.of(talker.layout), tiny_tokenizer())
    torch.manual_seed(0)
    pictures = [Image.fromarray(torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8).numpy()) for _ in range(3)]
    texts = [question_text(text) for text in ("What is it?", "Which is larger?")]
    return dict(processor(text=texts, images=[pictures[:1], pictures[1:]]))


def embedded(model, inputs) -> dict:
    words = model.get_input_embeddings()(inputs["input_ids"])
    return {**{name: value for name, value in inputs.items() if name != "input_ids"}, "inputs_embeds": words}


def new_tokens(model, inputs, **options):
    return model.generate(**inputs, **{"max_new_tokens": NUM_NEW, "do_sample": False, "eos_token_id": None} | options)


# Forward


@torch.no_grad()
def test_embeddings_of_words_do_as_their_ids(talker, inputs):
    assert torch.equal(talker(**embedded(talker, inputs)).logits, talker(**inputs).logits)
    with pytest.raises(ValueError, match="give one of them, and not both"):
        talker(input_ids=inputs["input_ids"], **embedded(talker, inputs))
    with pytest.raises(ValueError, match="give one of them, and not both"):
        talker(attention_mask=inputs["attention_mask"])


@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_the_language_model(talker, inputs):
    plain = talker(**inputs)
    output = talker(**inputs, output_hidden_states=True, output_attentions=True)
    rows, tokens = inputs["input_ids"].shape
    config = talker.config.text_config
    assert torch.equal(output.logits, plain.logits)
    assert [tuple(h.shape) for h in output.hidden_states] == [(rows, tokens, config.hidden_size)] * 3
    assert [tuple(a.shape) for a in output.attentions] == [(rows, config.num_attention_heads, tokens, tokens)] * 2
    assert torch.equal(talker.get_output_embeddings()(output.last_hidden_state), output.logits)
    assert plain.hidden_states is None
    assert plain.attentions is None


@torch.no_grad()
def test_a_tuple_holds_what_the_output_holds(talker, inputs):
    options = {"output_hidden_states": True, "labels": inputs["input_ids"]}
    output, values = talker(**inputs, **options), talker(**inputs, **options, return_dict=False)
    assert isinstance(values, tuple)
    assert len(values) == len(output)
    assert torch.equal(values[0], output.loss)
    assert torch.equal(values[1], output.logits)


@torch.no_grad()
def test_logits_to_keep_are_a_number_or_places(talker, inputs):
    whole = talker(**inputs).logits
    assert torch.equal(talker(**inputs, logits_to_keep=3).logits, whole[:, -3:])
    assert torch.equal(talker(**inputs, logits_to_keep=torch.tensor([0, 5])).logits, whole[:, [0, 5]])


def test_gradients_reach_embeddings_and_every_hidden_state(inputs):
    model = tiny_model(zoom={"score": "question"}).train()
    given = embedded(model, inputs)
    given["inputs_embeds"] = given["inputs_embeds"].detach().requires_grad_()
    output = model(**given, output_hidden_states=True, labels=inputs["input_ids"])
    for state in output.hidden_states:
        state.retain_grad()
    output.loss.backward()
    assert all(state.grad is not None for state in (given["inputs_embeds"], *output.hidden_states))


def test_inputs_that_are_wrapped_to_require_gradients_do(inputs):
    model = tiny_model().train()
    model.enable_input_require_grads()
    assert model.get_input_embeddings()(inputs["input_ids"]).requires_grad


# Generation


def test_every_output_of_generation_is_there(talker, inputs):
    output = new_tokens(
        talker,
        inputs,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    tokens, words = inputs["input_ids"].shape[1], talker.config.text_config.vocab_size
    assert [tuple(score.shape) for score in output.scores] == [(2, words)] * NUM_NEW
    assert [step[0].shape[-2] for step in output.attentions] == [tokens, 1, 1, 1]
    assert [step[-1].shape[1] for step in output.hidden_states] == [tokens, 1, 1, 1]
    assert output.past_key_values.get_seq_length() == tokens + NUM_NEW - 1
    chosen = torch.stack(output.scores, dim=1).argmax(-1)
    assert torch.equal(chosen, output.sequences[:, -NUM_NEW:])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_from_embeddings_is_that_from_ids(talker, inputs, options):
    expected = new_tokens(talker, inputs, **options)[:, -NUM_NEW:]
    assert torch.equal(new_tokens(talker, embedded(talker, inputs), **options), expected)
    with_ids = embedded(talker, inputs) | {"input_ids": inputs["input_ids"]}
    assert torch.equal(new_tokens(talker, with_ids, **options)[:, -NUM_NEW:], expected)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 5},
        {"num_beams": 2, "do_sample": True},
        {"num_beams": 3, "return_dict_in_generate": True, "output_scores": True},
        {"use_cache": False},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    ],
)
def test_ways_of_decoding_run(talker, inputs, options):
    torch.manual_seed(0)
    output = new_tokens(talker, inputs, **options)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    assert torch.equal(sequences[:, :-NUM_NEW], inputs["input_ids"])


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_every_cache_gives_the_same_answer(talker, inputs, cache):
    expected = new_tokens(talker, inputs, use_cache=False)
    assert torch.equal(new_tokens(talker, inputs, cache_implementation=cache, disable_compile=True), expected)


def one_row(talker, inputs):
    ids = inputs["input_ids"][:1][:, inputs["attention_mask"][0].bool()]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "question_mask": inputs["question_mask"][:1][:, inputs["attention_mask"][0].bool()],
        "pixel_values": inputs["pixel_values"][:1],
        "image_grids": inputs["image_grids"][:1],
    }


def test_assisted_generation_answers_as_the_model_alone(talker, inputs):
    row = one_row(talker, inputs)
    expected = new_tokens(talker, row, max_new_tokens=12)
    other = tiny_model(1, zoom={"score": "question"})
    for assistant in (talker, other):
        assert torch.equal(new_tokens(talker, row, max_new_tokens=12, assistant_model=assistant), expected)
    assert torch.equal(new_tokens(talker, row, max_new_tokens=12, prompt_lookup_num_tokens=2), expected)


def test_a_conversation_goes_on_from_its_cache(talker, inputs):
    row = one_row(talker, inputs)
    whole = new_tokens(talker, row, max_new_tokens=6)
    first = new_tokens(talker, row, max_new_tokens=3, return_dict_in_generate=True)
    more = {
        "input_ids": first.sequences,
        "attention_mask": torch.ones_like(first.sequences),
        "past_key_values": first.past_key_values,
    }
    assert torch.equal(new_tokens(talker, more, max_new_tokens=3), whole)


def test_a_generation_config_of_the_users_is_taken(talker, inputs):
    config = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert talker.generate(**inputs, generation_config=config).shape[1] == inputs["input_ids"].shape[1] + 2
    assert talker.can_generate()


# Words


@pytest.mark.parametrize("tied", [False, True])
def test_words_can_be_added_and_survive_saving(tmp_path, inputs, tied):
    model = tiny_model(text={"tie_word_embeddings": tied})
    plain = {name: value for name, value in inputs.items() if name != "question_mask"}
    before, size = model(**plain).logits, model.config.text_config.vocab_size
    model.resize_token_embeddings(size + 7, mean_resizing=False)
    after = model(**plain).logits
    assert after.shape[-1] == model.config.text_config.vocab_size == size + 7
    assert torch.equal(after[..., :size], before)
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert same == tied
    model.save_pretrained(tmp_path)
    again = DragonflyForConditionalGeneration.from_pretrained(tmp_path, trust_remote_code=False)
    assert torch.equal(again(**plain).logits, after)
    assert (again.get_input_embeddings().weight is again.get_output_embeddings().weight) == tied
    again.loss_sums(**plain, labels=plain["input_ids"]).loss.backward()


def test_embeddings_can_be_set(inputs):
    model = tiny_model()
    words, head = copy.deepcopy(model.get_input_embeddings()), copy.deepcopy(model.get_output_embeddings())
    model.set_input_embeddings(words)
    model.set_output_embeddings(head)
    assert model.get_input_embeddings() is words
    assert model.get_output_embeddings() is head


# Saving


def test_saved_and_loaded_by_every_auto_class_it_is_the_same_model(tmp_path, talker, inputs):
    talker.save_pretrained(tmp_path)
    expected = talker(**inputs).logits
    for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
        again = auto.from_pretrained(tmp_path, attn_implementation="eager", trust_remote_code=False)
        assert type(again) is DragonflyForConditionalGeneration
        assert torch.equal(again(**inputs).logits, expected)
    built = AutoModelForImageTextToText.from_config(talker.config, trust_remote_code=False)
    assert type(built) is DragonflyForConditionalGeneration


def test_a_config_survives_saving(tmp_path):
    config = tiny_config(zoom={"score": "question"}, feature_layer=-1)
    config.save_pretrained(tmp_path)
    again = DragonflyConfig.from_pretrained(tmp_path, trust_remote_code=False)
    assert again.to_dict() == config.to_dict()
    assert DragonflyConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert dragonfly_lit.DragonflyConfig is DragonflyConfig


def test_attention_is_set_as_a_whole_or_by_part(tmp_path):
    model = tiny_model()
    model.set_attn_implementation("eager")
    assert model.language.config._attn_implementation == "eager"
    assert model.vision.tower.config._attn_implementation == "eager"
    model.set_attn_implementation({"text_config": "sdpa"})
    assert model.language.config._attn_implementation == "sdpa"
    assert model.vision.tower.config._attn_implementation == "eager"


def test_every_tensor_is_a_parameter_or_a_buffer_and_initialised_on_the_meta_device():
    with torch.device("meta"):
        model = DragonflyForConditionalGeneration(tiny_config())
    assert all(parameter.is_meta for parameter in model.parameters())
