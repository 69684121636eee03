"""Numbers of a command line are what they count, or the option and the value are named."""

import pytest

from data_prep.arguments import PARSERS as DATA_PARSERS
from dragonfly_lit.io.parsers import PARSERS


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("ask", ["--model", "m", "--max-new-tokens", "0"], "--max-new-tokens: '0' is not a whole number, 1 or more"),
        ("compare", ["a", "--resamples", "0"], "--resamples: '0' is not a whole number, 1 or more"),
        ("compare", ["a", "--seed", "-1"], "--seed: '-1' is not a whole number, 0 or more"),
        ("study", ["a", "--images", "two"], "--images: 'two' is not a whole number, 0 or more"),
        ("study", ["a", "--small", "9"], "--small: '9' is not a share, above 0 and at most 1"),
        ("plan", ["--mfu", "40"], "--mfu: '40' is not a share, above 0 and at most 1"),
        ("plan", ["--mfu", "nan"], "--mfu: 'nan' is not a share, above 0 and at most 1"),
        ("mix-plan", ["--samples", "-5"], "--samples: '-5' is not a whole number, 1 or more"),
        ("mix-plan", ["--text", "x"], "--text: 'x' is not a whole number, 0 or more"),
        ("overlap", ["a", "--against", "b", "--workers", "0"], "--workers: '0' is not a whole number, 1 or more"),
    ],
)
def test_a_number_that_nothing_can_be_done_with_is_named(name, arguments, said, capsys):
    with pytest.raises(SystemExit):
        {**PARSERS, **DATA_PARSERS}[name]().parse_args(arguments)
    assert said in capsys.readouterr().err
