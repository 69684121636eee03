"""The lenient rules read what a person would, and give up where a person could not tell."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.evaluation.parsers import final_answer, letter_lenient, plain_number, yes_no_lenient

CHOICES = ("A tall tree", "dog", "hot dog", "Nothing")


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B)", "B"),
        ("B: dog", "B"),
        ("**B**", "B"),
        (" B\n", "B"),
        ("The answer is B", "B"),
        ("The answer is (b).", "B"),
        ("Answer: C", "C"),
        ("Option C", "C"),
        ("dog", "B"),
        ("It is a hot dog.", "C"),
        ("A tall tree", "A"),
        ("I think it is [D].", "D"),
        ("not A but B", "B"),
        ("A dog", "B"),
        ("E", None),
        ("", None),
        ("cat", None),
        ("(A) or (B)", None),
        ("dog, nothing", None),
        ("The correct option is C", "C"),
        ("The answer is A. No wait, the answer is B.", "B"),
        ("a", "A"),
        ("Both A and B", None),
        ("The answer is A or B", None),
        ("The answer is A or B.", None),
        ("A, B", None),
        ("A and C.", None),
        ("A/B", None),
        ("Either B or D", None),
        ("a or b", None),
        ("A, B and C", None),
        ("option A or option C", None),
        ("B, a dog", "B"),
        ("B, A dog", "B"),
        ("D. Nothing, or nothing else", "D"),
        ("A and B are wrong. The answer is C", "C"),
        ("It is C, and that is all", "C"),
    ],
)
def test_letters(output, letter):
    assert letter_lenient(output, CHOICES) == letter


@settings(max_examples=200, deadline=None)
@given(output=st.text(max_size=30), num_choices=st.integers(0, 6))
def test_a_letter_is_always_one_of_the_choices(output, num_choices):
    assert letter_lenient(output, [f"choice {i}" for i in range(num_choices)]) in (None, *"ABCDEF"[:num_choices])


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("No, it is not", "no"),
        ("The answer is yes", "yes"),
        ("There isn't one", "no"),
        ("It is not there", "no"),
        ("maybe", None),
        ("", None),
        ("Y", "yes"),
        ("nothing", None),
        ("noon", None),
        ("True", "yes"),
        ("Yes, there is no doubt", "yes"),
        ("I don't know", None),
        ("I don\u2019t know.", None),
        ("I do not know", None),
        ("It is not clear", None),
        ("It isn't clear", None),
        ("It is not clear whether there is a dog.", None),
        ("I'm not sure", None),
        ("I can't tell", None),
        ("Cannot determine", None),
        ("I have no idea", None),
        ("Unclear", None),
        ("No, it is not clear", "no"),
        ("It is not clear, but yes", "yes"),
        ("There is not enough light", None),
        ("I can't see one", "no"),
        ("The sky is not clear blue? No.", "no"),
    ],
)
def test_yes_and_no(output, answer):
    assert yes_no_lenient(output) == answer


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("Paris.", "Paris"),
        ("The answer is: Paris.", "Paris"),
        ("So the final answer is 5.\nBecause", "5"),
        ("", ""),
        ("answer is", "answer is"),
        ('"red"', "red"),
        ("3.5", "3.5"),
        ("Answer: **12%**.", "12%"),
    ],
)
def test_the_final_answer(output, answer):
    assert final_answer(output) == answer


def test_numbers_without_their_trimmings():
    assert [plain_number(text) for text in ("$1,234,567", " 12,34 ", "€5", "1,000.5")] == [
        "1234567",
        "12,34",
        "5",
        "1000.5",
    ]


def test_a_choice_that_names_two_others_may_be_said():
    assert letter_lenient("Both A and B", ("up", "down", "Both A and B", "neither")) == "C"
