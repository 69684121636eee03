"""Chat formats: which tokens are an answer, that training and asking write the same, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from chat_templates import (
    CHATML,
    GEMMA,
    LLAMA32,
    MISTRAL,
    MISTRAL_SYSTEM,
    PHI,
    PUBLISHED,
    QWEN3,
    SMOLLM2,
    llama3_tokenizer,
    tokenizer_of,
)
from hostile import TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.processing.encoding import expand_images, mark
from dragonfly_lit.processing.formats import chat_format
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor
from dragonfly_lit.processing.sequences import SequenceBuilder, TooLongError
from dragonfly_lit.spec.records import Role, Sample, Turn
from dragonfly_lit.spec.tokens import IGNORE, IMAGE, NEWLINE, STRUCTURAL

SYSTEM = "Be brief."
NO_THOUGHTS = "<think>\n\n</think>\n\n"
"""What Qwen-3 writes before its last answer alone, and asks for any with."""


def say(*texts: str, system: str | None = None) -> tuple[Turn, ...]:
    roles: list[Role] = ["user", "assistant"] * len(texts)
    turns = tuple(Turn(role=r, text=t) for r, t in zip(roles, texts, strict=False))
    return (Turn(role="system", text=system), *turns) if system else turns


def own(published, **options):
    return chat_format(tokenizer_of(published), published.template, where="language.chat=own", **options)


@pytest.fixture(scope="session")
def formats():
    return {name: own(published) for name, published in PUBLISHED.items()}


def answers(chat, text) -> list[str]:
    """What is supervised, each run of tokens decoded."""
    runs, before = [], False
    for token, answer in zip(text.ids, text.answer, strict=True):
        if answer and not before:
            runs.append([])
        if answer:
            runs[-1].append(token)
        before = answer
    return [chat.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("name", "spelt"),
    [
        ("chatml", ["Red.<|im_end|>", "A ball.<|im_end|>"]),
        ("smollm2", ["Red.<|im_end|>", "A ball.<|im_end|>"]),
        ("llama3", ["Red.<|eot_id|>", "A ball.<|eot_id|>"]),
        ("llama32", ["Red.<|eot_id|>", "A ball.<|eot_id|>"]),
        ("mistral", [" Red.</s>", " A ball.</s>"]),
        ("gemma", ["Red.<end_of_turn>", "A ball.<end_of_turn>"]),
        ("phi", ["Red.<|end|>", "A ball.<|end|>"]),
        ("qwen3", ["Red.<|im_end|>", "A ball.<|im_end|>"]),
        ("marked", ["Red.<|im_end|>", "A ball.<|im_end|>"]),
    ],
)
@pytest.mark.parametrize("system", [None, SYSTEM])
def test_what_is_learnt_is_each_answer_and_its_end(formats, name, spelt, system):
    chat = formats[name]
    turns = say("Which colour?", " Red.\n", "What is it?", "A ball.", system=system)
    if system and not PUBLISHED[name].takes_system:
        with pytest.raises(
            ValueError, match=r"does not take this conversation: (System role|Conversation roles)"
        ) as error:
            chat.spoken(turns)
        assert "\n" not in str(error.value)
        return
    text = chat.spoken(turns).text
    assert answers(chat, text) == spelt
    asked = chat.tokenizer.decode([i for i, q in zip(text.ids, text.question, strict=True) if q])
    assert asked.strip() == "Which colour?"
    assert (SYSTEM in chat.tokenizer.decode(text.ids)) == (system is not None)
    assert [i for i, a in zip(text.ids, text.answer, strict=True) if a][-1] == chat.ids.end_of_turn


def test_the_whole_text_is_the_template_s(formats):
    turns = say("Which colour?", "Red.", "What is it?", "A ball.")
    text = formats["qwen3"].tokenizer.decode(formats["qwen3"].spoken(turns).text.ids)
    assert text == (
        "<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>\n<|im_start|>user\n"
        "What is it?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nA ball.<|im_end|>\n"
    )
    text = formats["smollm2"].tokenizer.decode(formats["smollm2"].spoken(turns[:2]).text.ids)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\nRed.<|im_end|>\n"
    )
    text = formats["phi"].tokenizer.decode(formats["phi"].spoken(turns[:2]).text.ids)
    assert text == "<|user|>\nWhich colour?<|end|>\n<|assistant|>\nRed.<|end|>\n<|endoftext|>"


def test_thoughts_are_taken_from_earlier_answers_and_learnt_in_the_last(formats):
    thought = "<think>\nIt is round.\n</think>\n\nA ball."
    turns = say("What is it?", thought, "Sure?", thought)
    chat = formats["qwen3"]
    assert answers(chat, chat.spoken(turns).text) == ["A ball.<|im_end|>", f"{thought}<|im_end|>"]
    assert answers(formats["chatml"], formats["chatml"].spoken(turns).text) == [f"{thought}<|im_end|>"] * 2


def test_today_is_always_the_same_day(formats):
    assert "Today Date: 26 Jul 2024" in formats["llama32"].text(say("Hi"))
    assert "strftime_now" in LLAMA32.template


# What templates and tokenizers do with white space and letters, without what is structure to one of them.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda t: t.strip() and not any(mark in t for mark in ("<", "[INST]", "[/INST]"))
)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(PUBLISHED)),
    said=st.lists(st.tuples(words, words), min_size=1, max_size=5),
    system=st.one_of(st.none(), words),
)
def test_the_prompt_is_how_training_begins_token_for_token(formats, name, said, system):
    chat, system = formats[name], system if PUBLISHED[name].takes_system else None
    turns = say(*(text for pair in said for text in pair), system=system)
    whole = chat.spoken(turns).text
    prompt = chat.prompt(turns[:-1]).ids
    assert whole.ids[: len(prompt)] == prompt
    assert [a.strip() for a in answers(chat, whole)] == [f"{answer.strip()}{chat.end}" for _, answer in said]
    first = chat.text(turns[: 1 + bool(system)])
    if name == "qwen3" and len(said) > 1:
        assert first.endswith(NO_THOUGHTS)
        first = first.removesuffix(NO_THOUGHTS)
    assert whole.ids[: whole.answer.index(True)] == chat.read(first).ids
    # Read as a text, as the processor does, it is marked as training marks it.
    read = chat.read(chat.tokenizer.decode(whole.ids))
    if "\N{REPLACEMENT CHARACTER}" not in chat.tokenizer.decode(whole.ids):
        assert (read.ids, read.answer, read.question) == (whole.ids, whole.answer, whole.question)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_only_the_tokens_of_images_are_added(name):
    tokenizer = tokenizer_of(PUBLISHED[name])
    before = set(tokenizer.get_vocab())
    chat = chat_format(tokenizer, PUBLISHED[name].template)
    assert set(tokenizer.get_vocab()) - before == {IMAGE, NEWLINE}
    assert tokenizer.eos_token == PUBLISHED[name].eos
    assert tokenizer.bos_token == PUBLISHED[name].bos
    assert chat.ids.padding == tokenizer.pad_token_id == tokenizer.eos_token_id
    if name not in ("llama3", "llama32"):
        assert not any(token in tokenizer.get_vocab() for token in STRUCTURAL[:5])


def test_a_tokenizer_s_own_padding_stays():
    tokenizer = tokenizer_of(GEMMA)
    tokenizer.pad_token = "<pad>"
    assert chat_format(tokenizer, GEMMA.template).ids.padding == tokenizer.convert_tokens_to_ids("<pad>")
    nothing = tokenizer_of(CHATML)
    nothing.eos_token = None
    with pytest.raises(ValueError, match="has neither pad_token nor eos_token"):
        chat_format(nothing, CHATML.template, where="language.chat=own")


@pytest.mark.parametrize("token", ["<|im_end|>", "<|endoftext|>", IMAGE, NEWLINE])
def test_a_token_that_is_structure_is_refused_in_a_text(formats, token):
    with pytest.raises(ValueError, match="holds the structural token"):
        formats["qwen3"].spoken(say(f"a {token} b", "c"))
    with pytest.raises(ValueError, match="holds the structural token"):
        formats["qwen3"].prompt(say(f"a {token} b"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML.template.replace("message['content']", "message['content'] | upper"), "does not write every turn once"),
        (CHATML.template.replace("+ '<|im_end|>'", ""), "ends an answer without a special token"),
        (CHATML.template.replace("'<|im_start|>assistant\\n'", "'<|im_start|>bot\\n'"), "the prompt that asks"),
        (CHATML.template.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'"), "the prompt"),
        (
            QWEN3.template.replace("enable_thinking is defined", "false"),
            "the prompt that asks for an answer is not how",
        ),
        ("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", "nothing stands between a question"),
        ("{{ messages[-1]['content'] }}<|im_end|>", "does not write every turn once"),
    ],
)
def test_a_template_whose_answers_cannot_be_told_is_refused_by_name(template, said):
    with pytest.raises(ValueError, match=said) as error:
        own(CHATML._replace(template=template))
    assert str(error.value).startswith("language.chat=own: ")
    assert "\n" not in str(error.value)


def test_a_conversation_whose_answers_cannot_be_told_is_refused():
    chat = own(MISTRAL_SYSTEM)
    assert answers(chat, chat.spoken(say("What?", "This.", system=SYSTEM)).text) == [" This.</s>"]
    with pytest.raises(ValueError, match="is not how it begins up to that answer"):
        chat.spoken(say("What?", "This.", "And?", "That.", system=SYSTEM))
    with pytest.raises(ValueError, match="turn 1 is not found as it is"):
        own(MISTRAL).spoken(say("a [/INST] b</i>", "c"))


@pytest.mark.parametrize("template", [*TEMPLATES, "{{ strftime_now.__self__ }}", "{{ 7 }}", ""])
def test_a_hostile_template_ends_in_one_line(template):
    with pytest.raises(ValueError, match="chat template") as error:
        own(CHATML._replace(template=template))
    assert "\n" not in str(error.value)


def builder(chat, small, **options) -> SequenceBuilder:
    return SequenceBuilder(tokenizer=chat.tokenizer, layout=small, chat=chat, **{"max_tokens": 4096, **options})


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(PUBLISHED)),
    said=st.lists(st.tuples(words, words), min_size=1, max_size=6),
    max_tokens=st.integers(30, 400),
    supervise=st.sampled_from(("assistant", "all")),
)
def test_what_is_cut_is_what_dropping_exchanges_one_by_one_leaves(formats, small, name, said, max_tokens, supervise):
    chat, turns = formats[name], say(*(text for pair in said for text in pair))
    whole = builder(chat, small, max_tokens=10**9, supervise=supervise)
    fits = [n for n in range(2, len(turns) + 1, 2) if len(whole.tokenize(turns[:n], 0)) <= max_tokens]
    cutting = builder(chat, small, max_tokens=max_tokens, supervise=supervise)
    if not fits:
        with pytest.raises(TooLongError):
            cutting.tokenize(turns, 0)
        return
    found, wanted = cutting.tokenize(turns, 0), whole.tokenize(turns[: fits[-1]], 0)
    assert (found.trunk.ids, found.trunk.answer) == (wanted.trunk.ids, wanted.trunk.answer)
    assert found.num_turns_cut == len(turns) - fits[-1]


@pytest.mark.parametrize("name", ["chatml", "qwen3", "phi"])
def test_a_cut_costs_as_much_for_each_turn_however_many_there_are(formats, small, monkeypatch, name):
    chat, letters = formats[name], []
    monkeypatch.setattr(
        "dragonfly_lit.processing.own_format.mark",
        lambda given, text, *more: letters.append(len(text)) or mark(given, text, *more),
    )
    found = builder(chat, small, max_tokens=200).tokenize(say(*(f"word {n}" for n in range(600))), 0)
    assert found.num_turns_cut > 550
    assert sum(letters) < letters[0] + 6 * 250


@pytest.mark.parametrize("name", ["chatml", "smollm2", "llama32", "mistral", "gemma", "qwen3"])
def test_a_branch_reads_as_its_question_alone(formats, small, picture, name):
    chat = formats[name]
    build = builder(chat, small)
    turns = say("Which colour?", "Red.", "Which shape?", "A ball.", "Which shape?", "Round.")
    tokenized = build.tokenize(turns, 1, share_image=True)
    for number, branch in enumerate(tokenized.branches):
        alone = build.tokenize(turns[2 * number : 2 * number + 2], 1)
        assert tokenized.trunk.ids + branch.ids == alone.trunk.ids
        assert tokenized.trunk.answer + branch.answer == alone.trunk.answer
        assert branch.question[0]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_processor_writes_what_training_writes(small, picture, tmp_path, name):
    tokenizer = tokenizer_of(PUBLISHED[name])
    chat = chat_format(tokenizer, PUBLISHED[name].template)
    images = DragonflyImageProcessor.of(small, "fast")
    processor = DragonflyProcessor(images, tokenizer, chat.template, chat="own")
    processor.save_pretrained(tmp_path)
    again = DragonflyProcessor.from_pretrained(tmp_path)
    turns = say("Which colour?", "Red.", "What is it?", "A ball.")
    image = picture(9, 30)
    trained = builder(chat, small).tokenize(turns, 1).trunk
    messages: list[dict[str, Any]] = [{"role": turn.role, "content": turn.text} for turn in turns]
    messages[0]["content"] = [{"type": "text", "text": "Which colour?"}, {"type": "image", "image": image}]
    for one in (processor, again):
        assert one.chat == "own"
        inputs = one.apply_chat_template(messages, tokenize=True, return_dict=True, supervise="assistant")
        assert inputs["input_ids"][0].tolist() == trained.ids
        assert (inputs["labels"][0] != IGNORE).tolist() == trained.answer
        asked = one.apply_chat_template(messages[:-1], tokenize=True, return_dict=True, add_generation_prompt=True)
        assert asked["input_ids"][0].tolist() == trained.ids[: asked["input_ids"].shape[1]]
        question = one(text=[one.question_text("Which colour?")], images=[image])
        thoughts = chat.read(NO_THOUGHTS).ids if name == "qwen3" else []
        assert question["input_ids"][0].tolist() == trained.ids[: trained.answer.index(True)] + thoughts


def test_a_processor_of_an_unknown_format_is_refused(small):
    with pytest.raises(ValueError, match="is unknown"):
        DragonflyProcessor(DragonflyImageProcessor.of(small, "fast"), tokenizer_of(SMOLLM2), chat="mine")
    with pytest.raises(ValueError, match="the tokenizer brings no chat template"):
        DragonflyProcessor(DragonflyImageProcessor.of(small, "fast"), tokenizer_of(SMOLLM2), chat="own")


def test_a_processor_of_its_own_format_names_the_tokens_that_its_tokenizer_lacks(small):
    images, tokenizer = DragonflyImageProcessor.of(small, "fast"), tokenizer_of(PHI)
    with pytest.raises(
        ValueError, match=r"chat=own: the tokenizer lacks \S+_0\|>, \S+_1\|>\. Add them with .*add_image"
    ):
        DragonflyProcessor(images, tokenizer, PHI.template, chat="own")
    tokenizer.add_tokens([IMAGE, NEWLINE], special_tokens=True)
    assert tokenizer.pad_token is None
    processor = DragonflyProcessor(images, tokenizer, PHI.template, chat="own")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert processor(text=["a", "bc"])["input_ids"][0].tolist() == [end, *tokenizer("a")["input_ids"]]


@pytest.mark.parametrize("where", ["front", "in_place"])
def test_a_text_without_words_is_its_image_or_refused(small, picture, where):
    tokenizer = tokenizer_of(PHI)
    chat_format(tokenizer, PHI.template)
    images = DragonflyImageProcessor.of(small, "fast")
    processor = DragonflyProcessor(images, tokenizer, PHI.template, chat="own", images=where)
    inputs = processor(text=[""], images=[picture(9, 9)], supervise="all")
    ids, labels = inputs["input_ids"][0], inputs["labels"][0]
    assert ids.tolist() == small.image_ids(processor.ids.image, processor.ids.newline)
    learnt = ids == processor.ids.newline if where == "in_place" else ids != ids
    assert ((labels != IGNORE) == learnt).all()
    for supervise in (None, "assistant", "all"):
        with pytest.raises(ValueError, match="a text is empty and has no image"):
            processor(text=["", "a"], supervise=supervise)


def placed(text: str, *places: int, role: Role = "user") -> Turn:
    return Turn(role=role, text=text, num_images=len(places), places=places)


@st.composite
def questions(draw):
    """A user's words with images at any places of them."""
    text = draw(words)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return placed(text, *places) if any(places) else Turn(role="user", text=text, num_images=len(places))


def in_place(name: str):
    published = PUBLISHED[name]
    return chat_format(tokenizer_of(published), published.template, in_place=True)


@pytest.fixture(scope="session")
def placing():
    return {name: in_place(name) for name in PUBLISHED} | {"headers": chat_format(llama3_tokenizer(), in_place=True)}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([*sorted(PUBLISHED), "headers"]),
    said=st.lists(st.tuples(questions(), words), min_size=1, max_size=4),
    supervise=st.sampled_from(("assistant", "all")),
)
def test_images_in_place_are_asked_as_they_are_trained(placing, small, picture, name, said, supervise):
    chat = placing[name]
    turns = tuple(turn for asked, answer in said for turn in (asked, Turn(role="assistant", text=answer)))
    num_images = sum(turn.num_images for turn in turns)
    trained = builder(chat, small, supervise=supervise).tokenize(turns, num_images)
    ids, answer = trained.trunk.ids, trained.trunk.answer
    assert trained.num_images == num_images
    assert ids.count(chat.ids.image) == num_images * small.num_slots
    assert not any(a for i, a in zip(ids, answer, strict=True) if i == chat.ids.image)
    newlines = [a for i, a in zip(ids, answer, strict=True) if i == chat.ids.newline]
    assert newlines == [supervise == "all"] * len(newlines)
    prompt = expand_images(chat.prompt(turns[:-1]), small, chat.ids).ids
    assert ids[: len(prompt)] == prompt
    # Between the images are the words of the turns, in their order.
    one = small.image_ids(chat.ids.image, chat.ids.newline)
    spoken = chat.opening + chat.spoken(turns).text.ids + (chat.closing if supervise == "all" else [])
    assert ids == [i for token in spoken for i in (one if token == chat.ids.image else [token])]
    # A processor is given parts and writes the same.
    processor = DragonflyProcessor(
        DragonflyImageProcessor.of(small, "fast"),
        chat.tokenizer,
        chat.template or None,
        chat=chat.name,
        images="in_place",
    )
    messages = []
    for turn in turns:
        cuts = [0, *(turn.places or (0,) * turn.num_images), len(turn.text)]
        parts: list[dict] = []
        for place, (start, end) in enumerate(pairwise(cuts)):
            parts += [{"type": "image"}] * bool(place) + [{"type": "text", "text": turn.text[start:end]}]
        messages.append({"role": turn.role, "content": parts})
    text = processor.apply_chat_template(messages)
    assert text.count(IMAGE) == num_images
    pictures = [picture(9, 9)] * num_images
    inputs = processor(text=text, images=pictures or None, supervise=supervise)
    assert inputs["input_ids"][0].tolist() == ids
    assert (inputs["labels"][0] != IGNORE).tolist() == answer


def test_an_image_stands_between_its_words(placing, small, picture):
    chat = placing["chatml"]
    turns = (placed("First , second : what differs?", 6, 15), Turn(role="assistant", text="The colour."))
    sequence = builder(chat, small).build(
        Sample(key="a", source="s", turns=turns, images=(picture(9, 9), picture(9, 9, 1)))
    )
    text = chat.tokenizer.decode(sequence.input_ids)
    one = chat.tokenizer.decode(small.image_ids(chat.ids.image, chat.ids.newline))
    assert text.replace(one, "[image]") == (
        "<|im_start|>user\nFirst [image], second [image]: what differs?<|im_end|>\n"
        "<|im_start|>assistant\nThe colour.<|im_end|>\n"
    )
    assert len(sequence.crops) == 2
    assert sequence.image_slots.tolist() == (sequence.input_ids == chat.ids.image).nonzero().squeeze(1).tolist()


def test_front_refuses_an_image_between_words_and_takes_one_at_an_edge(formats, small):
    inside = (placed("First , then", 6), Turn(role="assistant", text="x"))
    with pytest.raises(ValueError, match=r"an image stands between two texts, and with model.images=front"):
        builder(formats["chatml"], small).tokenize(inside, 1)
    behind = (placed("What is it?", 11), Turn(role="assistant", text="x"))
    before = (Turn(role="user", text="What is it?", num_images=1), behind[1])
    build = builder(formats["chatml"], small)
    assert build.tokenize(behind, 1).trunk.ids == build.tokenize(before, 1).trunk.ids


@pytest.mark.parametrize("supervise", ["assistant", "all"])
@pytest.mark.parametrize("name", ["chatml", "qwen3", "mistral", "headers"])
def test_branches_in_place_share_the_images_and_read_as_each_question_alone(placing, small, name, supervise):
    build = builder(placing[name], small, supervise=supervise)
    turns = say("Which colour?", "Red.", "Which shape?", "A ball.", "Which shape?", "Round.")
    found = build.tokenize((replace(turns[0], num_images=2), *turns[1:]), 2, share_image=True)
    assert found.trunk.ids.count(build.ids.image) == 2 * small.num_slots
    assert found.num_images == 2
    for number, branch in enumerate(found.branches):
        asked = replace(turns[2 * number], num_images=2)
        alone = build.tokenize((asked, turns[2 * number + 1]), 2)
        assert found.trunk.ids + branch.ids == alone.trunk.ids
        assert found.trunk.answer + branch.answer == alone.trunk.answer


@pytest.mark.parametrize("name", ["chatml", "qwen3", "headers"])
def test_images_in_place_go_with_the_turns_that_are_cut(placing, small, name):
    turns = (placed("a  b", 2), Turn(role="assistant", text="c"), placed("d  e", 2), Turn(role="assistant", text="f"))
    whole = builder(placing[name], small)
    room = len(whole.tokenize(turns[:2], 1))
    found = builder(placing[name], small, max_tokens=room + 5).tokenize(turns, 2)
    assert (found.num_images, found.num_turns_cut) == (1, 2)
    assert found.trunk.ids == whole.tokenize(turns[:2], 1).trunk.ids


@pytest.mark.parametrize("text", ["What is <image> in HTML?", "<|image|>", "<image 1> and <image>"])
@pytest.mark.parametrize("name", ["chatml", "headers"])
def test_words_that_look_like_an_image_are_words(placing, small, name, text):
    turns = (Turn(role="user", text=text), Turn(role="assistant", text=text))
    found = builder(placing[name], small).tokenize(turns, 0)
    assert text in placing[name].tokenizer.decode(found.trunk.ids)
    assert placing[name].ids.image not in found.trunk.ids
    with pytest.raises(ValueError, match="holds the structural token"):
        builder(placing[name], small).tokenize((Turn(role="user", text=f"{text} {IMAGE}"), turns[1]), 0)


def test_places_outside_of_a_text_are_refused():
    for places in ((5,), (2, 1), (-1,)):
        with pytest.raises(ValueError, match="do not lie in order"):
            placed("abc", *places)
