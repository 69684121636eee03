"""The user's own configuration folder counts wherever a configuration is composed, checked or explained."""

import re
import shlex

import pytest
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.overrides import check_types, choices, groups, normalize_overrides
from dragonfly_lit.app.spelling import HYDRA_OPTIONS, SHORT_OPTIONS, WITH_A_VALUE
from dragonfly_lit.io.commands import override, quoted


@pytest.fixture
def own(tmp_path):
    """A folder with a model of the user's own, a numbered choice and a group that the project does not have."""
    for group, choice, text in (
        ("trainer", "laptop", "defaults: [cpu, _self_]\nlog_every: 7\n"),
        ("trainer", "_base", "log_every: 1\n"),
        ("trick", "2", "depth: 3\n"),
    ):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{choice}.yaml").write_text(text)
    return tmp_path


@pytest.fixture(params=["--config-dir", "--config-dir=", "hydra.searchpath"])
def arguments(request, own):
    """The ways to name it."""
    return {
        "--config-dir": ["--config-dir", str(own)],
        "--config-dir=": [f"--config-dir={own}"],
        "hydra.searchpath": [f"hydra.searchpath=[file://{own}]"],
    }[request.param]


def test_a_choice_of_ones_own_composes(arguments):
    config = compose([*arguments, "trainer=laptop", "+trick='2'"])
    assert (config["trainer"]["log_every"], config["trainer"]["accelerator"]) == (7, "cpu")
    assert config["trick"] == {"depth": 3}


def test_its_values_have_the_types_that_its_keys_have(arguments):
    check_types([*arguments, "trainer=laptop", "trainer.log_every=3"], "train")
    with pytest.raises(ValueError, match=r"trainer.log_every=often is not a whole .* at least 1. The default is 7."):
        check_types([*arguments, "trainer=laptop", "trainer.log_every=often"], "train")


def test_messages_list_it_among_the_choices_but_no_base(arguments):
    assert choices("trainer", arguments) == "cpu, gpu, gpu8, laptop"
    assert {"trick", "trainer"} < groups(arguments)
    assert "trick" not in groups()
    with pytest.raises(Exception, match=r".") as error:
        compose([*arguments, "trainer=desktop"])
    line = describe(error.value, "train", arguments)
    assert line == "trainer=desktop does not exist. Use one of cpu, gpu, gpu8, laptop."


def test_a_numbered_choice_of_ones_own_is_quoted(arguments):
    assert normalize_overrides([*arguments, "trick=2"], "train")[-1] == "trick='2'"


ODD = ["a=b", "my (data)", "a,b", "it's", "x[1]", "{a}", 'a"b', "~/data", "é", "#x", "a&b", "!x", "/x/y=1/z", 'a\\"b']


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("1,2", "'1','2'"), ("biomed,1", "biomed,'1'"), ("1,biomed", "'1',biomed"), ("mine", "mine"), ("2", "'2'")],
)
def test_numbered_choices_of_a_sweep_are_quoted_one_by_one(given, wanted):
    assert normalize_overrides(["-m", f"stage={given}"], "train")[1] == f"stage={wanted}"


@pytest.mark.parametrize("value", ODD)
def test_a_value_that_hydra_cannot_read_is_named_with_its_quoted_form(value):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        compose([f"data.path={value}", "data=mine"])
    said = str(error.value)
    assert said.startswith(f"data.path={value}: ")
    assert quoted("data.path", value) in said
    (typed,) = shlex.split(quoted("data.path", value))
    assert compose([typed, "data=mine"])["data"]["path"] == value


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="$"), min_size=1))
@example("\\")
@example('\\\\"')
@example("a\\b\\\\")
def test_any_text_can_be_quoted(value):
    for typed in (quoted("name", value), override("name", value)):
        (word,) = shlex.split(typed)
        assert OverridesParser.create().parse_override(word).value() == value


def test_a_list_of_values_needs_a_sweep():
    with pytest.raises(ValueError, match=r"seed=1,2: a comma stands between the values of a sweep, which -m runs"):
        normalize_overrides(["seed=1,2"], "train")
    assert normalize_overrides(["-m", "seed=1,2"], "train") == ["-m", "seed=1,2"]
    assert normalize_overrides(["trust=[a,b]", "name='a,b'"], "train") == ["trust=[a,b]", "name='a,b'"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--stage=2", "--stage=2: a key has no dashes, and = before its value. Use stage=2."),
        ("--stage 2", "--stage: a key has no dashes, and = before its value. Use stage=2."),
        ("--stage", "--stage: a key has no dashes, and = before its value. Use KEY=VALUE, such as stage=1."),
        ("--lr 1e-4", "--lr: a key has no dashes, .* Every group of a stage has one. Use stage.groups.0.lr=1e-4."),
        ("-lr 1e-4", "-lr: a key has no dashes, .* Use stage.groups.0.lr=1e-4."),
        ("--batch-size 4", "--batch-size: a key has no dashes, .* data.batch.size=4; .* data.batch.max_tokens=TOKENS."),
        (
            "--epochs 3",
            "--epochs: a key has no dashes, .* A stage is counted in optimizer steps. Use stage.steps=STEPS.",
        ),
        ("--max-steps 3", "--max-steps: a key has no dashes, .* Use stage.steps=3."),
        ("stage 2", "stage stands alone, without a value. Use stage=2."),
        ("stage = 2", "stage stands alone, without a value. Use stage=2."),
        ("stage: 2", "stage: stands alone, without a value. Use stage=2."),
        ("stage:2", "stage:2 stands alone, without a value. Use stage=2."),
        ("stage=1 lr 1e-4", "lr stands alone, without a value. .* Use stage.groups.0.lr=1e-4."),
        ("seed", "seed stands alone, without a value. Use KEY=VALUE, such as stage=1."),
        ("--config-dir mine seed", "seed stands alone, without a value. Use KEY=VALUE, such as stage=1."),
        ("seed= 3", "seed= 3: no space stands behind the =. Use seed=3."),
        ("=2", "=2: there is no key in front of the =. Use KEY=VALUE without spaces, such as stage=1."),
        ("stage==2", "stage==2: one = is enough. Use stage=2."),
        (
            "stage.groups[0].lr=3",
            "stage.groups[0].lr=3: a part of a list is named behind a dot. Use stage.groups.0.lr=3.",
        ),
    ],
)
def test_an_argument_that_is_no_key_with_its_value_is_told_how_it_is_written(arguments, said):
    pattern = ".*".join(re.escape(part) for part in said.split(".*"))
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        normalize_overrides(arguments.split(), "train")


def test_words_behind_options_of_hydra_are_no_keys():
    given = ["--config-dir", "mine", "--cfg", "job", "--package=stage", "-m", "stage=1"]
    assert normalize_overrides(given, "train") == [*given[:-1], "stage='1'"]
    assert normalize_overrides(["+stage=2", "seed="], "train") == ["+stage='2'", "seed="]


def test_options_of_hydra_keep_their_dashes():
    actions = get_args_parser()._actions
    known = [option for action in actions for option in action.option_strings]
    assert sorted(known) == sorted(HYDRA_OPTIONS + SHORT_OPTIONS)
    with_a_value = [option for action in actions if action.nargs != 0 for option in action.option_strings]
    assert sorted(with_a_value) == sorted(WITH_A_VALUE)
    assert normalize_overrides(["--multirun", "--cfg", "job", "stage=1"], "train")[:3] == ["--multirun", "--cfg", "job"]
