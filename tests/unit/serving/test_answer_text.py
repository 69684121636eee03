"""The text of an answer, piece by piece, is the text of all its tokens up to the first stop string."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.models.tiny import tiny_tokenizer
from dragonfly_lit.serving.words import AnswerText

TOKENIZER = tiny_tokenizer()


def pieces(ids: list[int], stops=()) -> tuple[str, bool]:
    text = AnswerText(TOKENIZER, stops)
    told = []
    for word in ids:
        told.append(text.push(word))
        if text.stopped:
            break
    told.append(text.finish())
    return "".join(told), text.stopped


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_whole_characters_up_to_the_first_stop(text, stops):
    found = [text.find(stop) for stop in stops if stop in text]
    # What a character less would have ended is ended there: the first place where any stop string is complete.
    told, stopped = pieces(ids_of(text), stops)
    assert stopped == bool(found)
    if not found:
        assert told == text
    else:
        ends = min(text.find(stop) + len(stop) for stop in stops if stop in text)
        assert told == text[: min(text[:ends].find(stop) for stop in stops if stop in text[:ends])]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 262), max_size=40))
def test_any_tokens_at_all_are_what_the_tokenizer_makes_of_them(ids):
    told, _ = pieces(ids)
    assert told == TOKENIZER.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_told_that_a_stop_string_takes_back(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices("ab", k=60))
    stop = "".join(draw.choices("ab", k=5)) + "c"
    told, stopped = pieces(ids_of(text + stop + "rest"), [stop])
    assert (told, stopped) == (text, True)


def test_a_character_waits_for_its_last_byte():
    text = AnswerText(TOKENIZER)
    told = [text.push(word) for word in ids_of("a\u4e2d")]
    assert told == ["a", "", "", "\u4e2d"]
