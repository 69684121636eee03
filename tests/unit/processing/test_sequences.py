"""Samples to sequences: what is tokenised, what is supervised, what is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.processing.encoding import add_structural_tokens, tokenize
from dragonfly_lit.processing.prompts import find_turns, header, question_text, render
from dragonfly_lit.processing.sequences import SequenceBuilder, TooLongError
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.spec.tokens import IGNORE, STRUCTURAL, special_ids


def say(*texts: str, system: str | None = None, images: int = 0) -> tuple[Turn, ...]:
    roles = ["user", "assistant"] * len(texts)
    turns = [Turn(role=r, text=t) for r, t in zip(roles, texts, strict=False)]
    if images:
        turns[0] = Turn(role="user", text=texts[0], num_images=images)
    return (*([Turn(role="system", text=system)] if system else []), *turns)


def sample(turns, images=(), **options) -> Sample:
    return Sample(key="a/1", source="s", turns=turns, images=tuple(images), **options)


@pytest.fixture
def build(tokenizer, small):
    def make(**options) -> SequenceBuilder:
        return SequenceBuilder(tokenizer=tokenizer, layout=small, **{"max_tokens": 4096, **options})

    return make


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda t: "<|" not in t)


@settings(max_examples=80, deadline=None)
@given(spoken=st.lists(texts, min_size=2, max_size=6), system=texts)
def test_turns_tokenised_apart_give_the_ids_of_the_whole(tokenizer, spoken, system):
    turns = say(*spoken, system=system)
    apart = [i for turn in turns for i in tokenize(tokenizer, render([turn])).ids]
    assert apart == tokenizer(render(turns), add_special_tokens=False)["input_ids"]


@settings(max_examples=80, deadline=None)
@given(spoken=st.lists(texts, min_size=2, max_size=6))
def test_labels_decode_to_the_answers_and_their_ends(tokenizer, small, spoken):
    turns = say(*spoken)
    builder = SequenceBuilder(tokenizer=tokenizer, layout=small, max_tokens=4096)
    sequence = builder.build(sample(turns))
    labels = sequence.labels[sequence.labels != IGNORE]
    said = "".join(f"{t.text.strip()}<|eot_id|>" for t in turns if t.role == "assistant")
    assert tokenizer.decode(labels, clean_up_tokenization_spaces=False) == said


def test_a_prompt_is_the_released_one():
    assert question_text("Why?") == (
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert question_text("Why?", system="Be short.") == render(say("Why?", system="Be short."), answer_next=True)


def test_turns_are_found_where_they_were_put():
    text = render(say("Q", "A", "R"), answer_next=True)
    assert [(s.role, text[s.start : s.end]) for s in find_turns(text)] == [
        ("user", "Q"),
        ("assistant", "A"),
        ("user", "R"),
        ("assistant", ""),
    ]


@pytest.mark.parametrize("token", STRUCTURAL)
def test_a_structural_token_in_a_turn_is_refused(token):
    with pytest.raises(ValueError, match="holds the structural token"):
        render(say(f"Look: {token}"))


def test_images_stand_before_the_text(build, tokenizer, small, picture):
    turns = say("Compare.", "Same.", images=2)
    sequence = build().build(sample(turns, [picture(20, 30), picture(30, 20, 1)]))
    ids = special_ids(tokenizer)
    image = small.image_ids(ids.image, ids.newline)
    text = tokenizer(render(turns), add_special_tokens=False)["input_ids"]
    assert sequence.input_ids.tolist() == image * 2 + [ids.begin] + text
    assert len(sequence.crops) == 2
    assert sequence.position_ids.tolist() == list(range(len(sequence)))


def test_the_question_is_what_users_said_before_the_first_answer(build, tokenizer):
    sequence = build().build(sample(say("One fox?", "Yes.", "And two?", "No.", system="Be short.")))
    assert tokenizer.decode(sequence.input_ids[sequence.question_mask]) == "One fox?"


def test_all_supervises_everything_after_the_begin_and_closes_the_text(build, tokenizer, picture):
    sequence = build(supervise="all").build(sample(say("Q", "A", images=1), [picture(9, 9)]))
    ids = special_ids(tokenizer)
    begin = sequence.input_ids.tolist().index(ids.begin)
    assert sequence.input_ids[-1] == ids.end
    assert (sequence.labels[: begin + 1] == IGNORE).all()
    assert torch.equal(sequence.labels[begin + 1 :], sequence.input_ids[begin + 1 :])


def test_a_branch_reads_as_its_question_alone(build, picture):
    spoken, image = ["What?", "A dog.", "Which colour is it?", "Brown.", "How many?", "1"], picture(30, 40)
    shared = build().build(sample(say(*spoken, system="Be short.", images=1), [image], share_image=True))
    for branch in (1, 2, 3):
        pair = spoken[2 * branch - 2 : 2 * branch]
        alone = build().build(sample(say(*pair, system="Be short.", images=1), [image]))
        seen = (shared.branch_ids == 0) | (shared.branch_ids == branch)
        for name in ("input_ids", "labels", "position_ids"):
            assert torch.equal(getattr(shared, name)[seen], getattr(alone, name)), name
        own = shared.branch_ids == branch
        assert torch.equal(shared.question_mask[own], alone.question_mask[-int(own.sum()) :])


def test_the_first_token_of_a_branch_has_no_label(build):
    sequence = build(supervise="all").build(sample(say("Q", "A", "R", "B"), share_image=True))
    first = torch.cat([torch.tensor([True]), sequence.branch_ids.diff() != 0])
    assert (sequence.labels[first] == IGNORE).all()


def test_questions_that_are_no_pairs_cannot_share(build):
    with pytest.raises(ValueError, match=r"a/1: share_image=true needs pairs"):
        build().build(sample(say("Q", "A", "R"), share_image=True))


@pytest.mark.parametrize("share_image", [False, True])
def test_too_long_is_cut_to_whole_exchanges_and_counted(build, share_image):
    spoken = ["Q", "A", "R", "B", "S", "C"]
    limit = build().num_tokens(say(*spoken[:4]), 0, share_image=share_image)
    builder = build(max_tokens=limit)
    cut = builder.build(sample(say(*spoken), share_image=share_image))
    whole = build().build(sample(say(*spoken[:4]), share_image=share_image))
    assert torch.equal(cut.input_ids, whole.input_ids)
    assert torch.equal(cut.labels, whole.labels)
    assert (builder.counts.samples_cut, builder.counts.turns_cut, builder.counts.samples_refused) == (1, 2, 0)


def test_images_go_with_the_turns_that_are_cut(build, small, picture):
    turns = (*say("Q", "A", images=1), *say("And this?", "B", images=1))
    builder = build(max_tokens=small.num_tokens + 60)
    sequence = builder.build(sample(turns, [picture(9, 9), picture(9, 9, 1)]))
    assert len(sequence.crops) == 1
    assert torch.equal(sequence.input_ids, build().build(sample(turns[:2], [picture(9, 9)])).input_ids)


def test_refuse_refuses_and_counts(build):
    builder = build(max_tokens=30, too_long="refuse")
    with pytest.raises(TooLongError, match=r"a/1: .* more than max_tokens=30"):
        builder.build(sample(say("Q", "A", "R", "B", "S", "C")))
    assert builder.counts.samples_refused == 1


def test_an_image_is_never_cut(build, small, picture):
    with pytest.raises(TooLongError, match="no earlier exchange"):
        build(max_tokens=small.num_tokens).build(sample(say("Q", "A", images=1), [picture(9, 9)]))


def test_the_planned_length_is_the_built_one(build, picture):
    for turns, images, share in (
        (say("Q", "A", "R", "B", images=1), [picture(5, 5)], True),
        (say("Q", "A"), [], False),
    ):
        builder = build()
        planned = builder.num_tokens(turns, len(images), share_image=share)
        assert planned == len(builder.build(sample(turns, images, share_image=share)))


def test_placeholders_and_images_must_be_equal(build, picture):
    with pytest.raises(ValueError, match="2 image placeholders but 1 images"):
        build().build(sample(say("Q", "A", images=2), [picture(5, 5)]))


def test_a_sample_without_an_answer_teaches_nothing(build):
    with pytest.raises(ValueError, match="nothing to learn"):
        build().build(sample((Turn(role="user", text="Q"),)))


def test_any_tokenizer_learns_the_structural_tokens():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    foreign = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ValueError, match=r"lacks <\|begin_of_text\|>"):
        special_ids(foreign)
    assert add_structural_tokens(foreign) == len(STRUCTURAL)
    assert len(tokenize(foreign, header("user"))) == len("user") + 4
    assert foreign.pad_token_id == special_ids(foreign).end


def cut_one_by_one(builder: SequenceBuilder, whole: SequenceBuilder, turns, num_images: int, share_image: bool):
    """The rule itself: drop the last exchange, tokenise what is left anew, until it fits; None where nothing does."""
    marked = any(turn.num_images for turn in turns)
    kept = [len(turns), *(n for n in range(len(turns) - 1, 0, -1) if turns[n - 1].role == "assistant")]
    for number in kept:
        images = sum(turn.num_images for turn in turns[:number]) if marked else num_images
        found = whole.tokenize(turns[:number], images, share_image=share_image)
        if len(found) <= builder.max_tokens:
            return found, len(turns) - number
    return None


@settings(max_examples=120, deadline=None)
@given(
    said=st.lists(st.tuples(texts, texts.filter(str.strip)), min_size=1, max_size=7),
    system=st.one_of(st.none(), texts),
    images=st.integers(0, 2),
    later=st.booleans(),
    share_image=st.booleans(),
    supervise=st.sampled_from(("assistant", "all")),
    max_tokens=st.integers(8, 400),
)
def test_what_is_cut_is_what_dropping_exchanges_one_by_one_leaves(
    tokenizer, small, said, system, images, later, share_image, supervise, max_tokens
):
    turns = list(say(*(text for pair in said for text in pair), system=system, images=images))
    if later and not share_image and len(said) > 1 and images:  # an image with the last question too
        turns[-2] = Turn(role="user", text=turns[-2].text, num_images=1)
    num_images = sum(turn.num_images for turn in turns)
    options = {"tokenizer": tokenizer, "layout": small, "supervise": supervise}
    builder, whole = (SequenceBuilder(**options, max_tokens=limit) for limit in (max_tokens, 10**9))
    wanted = cut_one_by_one(builder, whole, tuple(turns), num_images, share_image)
    if wanted is None:
        with pytest.raises(TooLongError):
            builder.tokenize(tuple(turns), num_images, share_image=share_image)
        return
    found = builder.tokenize(tuple(turns), num_images, share_image=share_image)
    parts = [(found.trunk, wanted[0].trunk), *zip(found.branches, wanted[0].branches, strict=True)]
    assert all((a.ids, a.answer, a.question) == (b.ids, b.answer, b.question) for a, b in parts)
    assert (found.num_images, found.num_turns_cut) == (wanted[0].num_images, wanted[1])


@pytest.mark.parametrize("share_image", [False, True])
def test_each_exchange_is_tokenised_once_however_many_are_cut(build, monkeypatch, share_image):
    builder, seen = build(max_tokens=60), []
    monkeypatch.setattr(
        "dragonfly_lit.processing.formats.tokenize", lambda given, text: seen.append(text) or tokenize(given, text)
    )
    turns = say(*(f"word {n}" for n in range(400)))
    found = builder.tokenize(turns, 0, share_image=share_image)
    assert found.num_turns_cut > 300
    assert "".join(seen) == render(turns)
