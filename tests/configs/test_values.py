"""Every key of every configuration has a rule; what a key cannot have is one line that names it."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.keys import MAY_BE_NULL, RULES
from dragonfly_lit.app.overrides import CONF
from dragonfly_lit.app.values import check_values, leaves, rule_of
from dragonfly_lit.evaluation.benchmarks.options import changed

ROOT = Path(__file__).resolve().parents[2]
OPTIONAL = ("experiment", "experiment/cell", "benchmark")
TRAIN_ONLY = {"callbacks", "data", "experiment", "experiment/cell", "language", "logger", "model", "objective",
              "optimizer", "projector", "stage", "strategy", "trainer", "vision", "zoom"}  # fmt: skip
CHOICES = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and not path.stem.startswith("_")
)
WRONG = {
    "number": ["abc", math.nan, math.inf, -math.inf, -1e40, [1], {"a": 1}, True],
    "flag": ["maybe", 3, None, [True], {"a": 1}],
    "text": [3, 1.5, True, None, [1], {"a": [1]}],
    "list": ["abc", 3, None, [[1]], {"a": 1}],
    "null": [[[1]]],
}


def composed(group: str, choice: str, config: str) -> dict:
    if choice == "lr_search":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    overrides = {"experiment": [f"experiment={choice}"], "experiment/cell": [f"experiment/cell={choice}"]}
    found = compose(overrides.get(group, [f"{group}={choice}"]), config)
    return found


def places(config: str, group: str, choice: str):
    """The configuration, and every key of it with where its value is held."""
    found = composed(group, choice, config)
    return found, dict(leaves(found, config))


def kind(value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    return "list" if isinstance(value, list) else "mapping" if isinstance(value, dict) else "text"


def jobs():
    for group, choice in CHOICES:
        yield pytest.param("train", group, choice, id=f"train {group}={choice}")
        if group not in TRAIN_ONLY:
            yield pytest.param("evaluate", group, choice, id=f"evaluate {group}={choice}")


@pytest.mark.parametrize(("config", "group", "choice"), list(jobs()))
def test_every_key_has_a_rule_that_its_default_fits_and_that_refuses_what_it_cannot_be(config, group, choice):
    whole, found = places(config, group, choice)
    check_values(copy.deepcopy(whole), config)
    for key, (holder, last) in found.items():
        if key in MAY_BE_NULL and holder[last] is None:
            continue  # what is below it is looked at where it is given
        if key.startswith("logger."):
            continue  # fields of loggers of Lightning's
        assert rule_of(config, key) is not None, f"{key} has no rule in app/keys.py"
        default = holder[last]
        for wrong in WRONG.get(kind(default), []):
            if rule_of(config, key).fits(wrong):
                assert "null" in rule_of(config, key).wanted or " or " in rule_of(config, key).wanted, (key, wrong)
                continue
            holder[last] = wrong
            with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
                check_values(whole, config)
            assert str(error.value).startswith(f"{key}="), error.value
        holder[last] = default


def test_numbers_never_take_what_is_not_a_number():
    for config, rules in RULES.items():
        for key, rule in rules.items():
            if "number" in rule.wanted and "text" not in rule.wanted:
                for wrong in ("abc", math.nan, math.inf, -1e40, [1], {"a": 1}):
                    assert not rule.fits(wrong), (config, key, wrong)


TABLE = [
    # key, refused, taken
    ("seed", [None, 1.5, -1, 2**32, "abc"], [0, 2**32 - 1, 3.0]),
    ("stage.clip", [-1, 0, "abc", math.nan], [1e-6, 1, None]),
    ("stage.steps", [0, -1, 1.5, None], [1, 1e3]),
    ("stage.warmup", [-0.1, None], [0, 0.5, 100]),
    ("stage.floor", [-0.1, 1.1], [0, 1]),
    ("stage.groups.0.lr", [0, -1, None, "fast"], [1e-6, 1]),
    ("stage.groups.0.match", [3, None, [1]], ["projector.*", ["zoom.*", "projector.*"]]),
    ("data.train.sources.easy_vqa.weight", ["abc", 0, -1, math.inf], [1e-3, 5, None]),
    ("data.train.sources.easy_vqa.prompts", [3, [3], {"a": 1}], [None, "caption", ["What is it?"]]),
    ("data.num_workers", [-1, 1.5, 10**6], [0, 8]),
    ("data.max_skip_rate", [-0.1, 1.1, None], [0, 1.0]),
    ("data.cache_gb", [0, -1, math.inf], [0.5, 100]),
    ("data.epoch.passes", [0, -1, "all"], [0.5, 3, None]),
    ("data.batch.size", [0, -1, 1.5], [None, 4]),
    ("trainer.limit_val_batches", [-1, 1.5, -0.5, "all"], [0, 0.25, 1.0, 20, None]),
    ("trainer.max_time", ["1h", 3600, "0:1:2"], ["00:01:00:00", {"hours": 1}, None]),
    ("trainer.deterministic", ["maybe", 1], [True, "warn", None]),
    ("trainer.fast_dev_run", [0, -1, "yes"], [True, 3, None]),
    ("callbacks.bad_steps.spike", [1, 0, -1], [1.5, None]),
    ("callbacks.checkpoints.every", [0, -1, None], [1]),
    ("zoom.medium_crops", [0, -4, 1e9], [4]),
    ("zoom.top_k", [0, -1, 1.5], [1, None]),
    ("vision.image_size", [0, 10**9], [24, None]),
    ("name", [7, None, True, "", ".", "..", "../../x", "a/../b", "/x"], ["7", "my run", "a/b", "a..b", ".a"]),
    ("model.dtype", ["float16", "abc", None], ["bfloat16"]),
    ("model", [None, 3], []),
    ("stage.groups", [3, None, "*", [1]], []),
    ("data.batch", [5], [None]),
    ("callbacks.checkpoints", [None, 100], []),
]  # fmt: skip


@pytest.mark.parametrize(("key", "refused", "taken"), TABLE, ids=[row[0] for row in TABLE])
def test_the_edges_of_a_key(key, refused, taken):
    config = compose([])
    *path, last = (int(name) if name.isdecimal() else name for name in key.split("."))
    holder = config
    for name in path:
        holder = holder[name]
    for value in refused:
        holder[last] = value
        with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
            check_values(config, "train")
        assert str(error.value).startswith(f"{key}="), error.value
    for value in taken:
        holder[last] = value
        check_values(config, "train")


def test_a_whole_number_written_as_another_becomes_one():
    config = compose(["stage.steps=1e3", "seed=2.0"])
    check_values(config, "train")
    assert [(type(n), n) for n in (config["stage"]["steps"], config["seed"])] == [(int, 1000), (int, 2)]


@pytest.mark.parametrize("group", ["experiment", "experiment/cell"])
def test_an_experiment_that_would_change_nothing_is_refused(group, tmp_path):
    file = tmp_path / group / "mine.yaml"
    file.parent.mkdir(parents=True)
    given = [f"--config-dir={tmp_path}", f"{group}=mine"]
    file.write_text("model: {quantize: int8}\n")
    with pytest.raises(ValueError, match=r"^experiment: .*change nothing: its keys .*# @package _global_"):
        check_values(compose(given), "train")
    file.write_text("# @package _global_\nmodel: {quantize: int8}\n")
    config = compose(given)
    check_values(config, "train")
    assert config["model"]["quantize"] == "int8"


def test_the_keys_of_a_part_of_the_users_own_are_left_to_it():
    config = compose(["+projector.hidden=wide", "projector._target_=my_parts.projector.GatedProjector"])
    check_values(config, "train")


@pytest.mark.parametrize(
    ("script", "override", "said"),
    [
        ("train", "seed=null", "seed=null is not a whole number of at least 0 and at most 4294967295."),
        ("train", "stage.clip=0", "stage.clip=0 is not a number above 0 or null."),
        ("train", "data.train.sources.easy_vqa.weight=abc", "weight=abc is not a number above 0 or null."),
        ("train", "name=7", "A text that looks like a number is quoted: 'name=\"7\"'."),
        ("train", "+data.batch.size=many", "data.batch.size=many is not a whole number of at least 1 or null."),
        ("evaluate", "temperature=-1", "temperature=-1 is not a number of at least 0."),
        ("evaluate", "dtype=half", "dtype=half is not float32, bfloat16 or null."),
    ],
)
def test_on_the_command_line_it_is_one_line_before_anything_is_built(script, override, said, tmp_path):
    short = {"train": "stage.steps=1", "evaluate": "benchmark.limit=1"}[script]
    command = [sys.executable, str(ROOT / f"{script}.py"), f"runs_root={tmp_path}", short, override]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 1
    (line,) = process.stderr.strip().splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_every_job_of_a_sweep_is_looked_at_before_the_first_one_starts(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"runs_root={tmp_path}", "stage.clip=1,0"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.strip() == "error: stage.clip=0 is not a number above 0 or null. The default is 1.0."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "benchmark").glob("[a-z]*.yaml")))
def test_a_benchmark_is_the_same_by_its_file_and_by_its_class(name):
    more = ["benchmark.manifest=questions.csv"] if name == "my_set" else []
    made = make(compose([f"benchmark={name}", *more], "evaluate")["benchmark"])
    assert {one.name: changed(one) for one in made.benchmarks} == {
        one.name: {"manifest": "questions.csv"} if more else {} for one in made.benchmarks
    }


@pytest.mark.parametrize("name", ["default", "llava", "lmms_eval", "released"])
def test_a_set_of_prompts_is_the_same_by_its_file_and_by_its_name(name):
    assert make(compose([f"prompt={name}"], "evaluate")["prompt"]).told == name
