"""Every combination of groups that makes sense composes, and builds all that needs no weights."""

import itertools
import json
import re

import pytest
import yaml
from transformers import CLIPVisionConfig

from dragonfly_lit.app.build import compose, make
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.factories import build_layout, look_up_parts, zoom_of
from dragonfly_lit.app.moved import USUAL
from dragonfly_lit.app.overrides import CONF, groups
from dragonfly_lit.app.reading import reading_of
from dragonfly_lit.app.stage import build_stage
from dragonfly_lit.app.values import rule_of
from dragonfly_lit.spec.released import released_zoom
from dragonfly_lit.training.stages import Stage

MODELS = ("tiny", "dragonfly_v1", "dragonfly_v2")
STAGES = ("1", "2", "biomed")
SIZES = {"clip-vit-base-patch32": (224, 32), "clip-vit-large-patch14-336": (336, 14)}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


@pytest.fixture
def towers(tmp_path):
    """Folders with the configs of the released towers; a layout needs no more."""
    for name, (image_size, patch_size) in SIZES.items():
        config = CLIPVisionConfig(image_size=image_size, patch_size=patch_size)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config.to_dict()))
    return tmp_path


@pytest.mark.parametrize(("model", "stage"), list(itertools.product(MODELS, STAGES)))
def test_every_model_has_a_recipe_for_every_stage(model, stage):
    config = compose([f"model={model}", f"stage={stage}"])
    recipe = config["model"]["recipe"][stage]
    assert config["stage"]["steps"] == recipe["steps"]
    for devices, size in ((1, 16), (8, recipe["batch_size"] or 16), (8, 8.7)):
        config["trainer"]["devices"] = devices
        steps = reading_of(config, size, 100).steps
        built = build_stage(config["stage"] | {"steps": steps})
        assert isinstance(built, Stage)
        assert (built.name, built.steps) == (stage, steps)
        wanted = recipe["steps"] if recipe["steps"] != "auto" else recipe["samples"] / (devices * size)
        assert steps == pytest.approx(wanted, rel=1e-3)


def test_the_released_steps_are_those_of_eight_gpus_at_the_recipe_s_batch_size():
    for stage, released in (("1", 17400), ("2", 507798), ("biomed", 507798)):
        config = compose(["model=dragonfly_v1", f"stage={stage}", "trainer=gpu8"])
        assert reading_of(config, config["model"]["recipe"][stage]["batch_size"], 100).steps == released


FITTING = [pair for pair in itertools.product(MODELS, choices("zoom")) if pair != ("dragonfly_v1", "pool")]


@pytest.mark.parametrize(("model", "zoom"), FITTING)
def test_every_model_takes_every_zoom(model, zoom, towers):
    config = compose([f"model={model}", f"zoom={zoom}", f"weights_root={towers}"])
    layout = build_layout(config)
    assert layout.num_tokens > layout.features_per_crop
    assert layout.zoom == zoom_of(config)


def test_a_pool_that_does_not_fit_the_tower_is_refused_with_the_ones_that_do(towers):
    config = compose(["model=dragonfly_v1", "zoom=pool", f"weights_root={towers}"])
    with pytest.raises(ValueError, match=r"zoom.pool=4 does not divide 7 patches .* Use one of 1, 7"):
        build_layout(config)


@pytest.mark.parametrize(
    "group", ["data", "strategy", "trainer", "logger", "callbacks", "optimizer", "vision", "language", "projector"]
)
def test_every_choice_of_a_group_composes_with_every_model(group):
    for choice, model in itertools.product(choices(group), MODELS):
        config = compose([f"model={model}", f"{group}={choice}"])
        assert config["model"]["name"] == model
        look_up_parts(config, file=None)


@pytest.mark.parametrize("strategy", choices("strategy"))
def test_every_strategy_builds(strategy):
    config = compose([f"strategy={strategy}"])
    node = {key: value for key, value in config["strategy"].items() if key != "name"}
    assert type(make(node)).__name__.lower() == strategy


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_composes(experiment):
    if experiment == "lr_search":
        # Hydra knows the sweeper once its plugin is installed: pip install 'dragonfly_lit[sweep]'.
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert compose([f"experiment={experiment}"])["stage"]["steps"] > 0


@pytest.mark.parametrize(("model", "version", "tokens"), [("dragonfly_v1", "v1", 867), ("dragonfly_v2", "v2", 2098)])
def test_the_released_models_are_the_defaults_of_their_names(model, version, tokens, towers):
    config = compose([f"model={model}", f"weights_root={towers}"])
    assert zoom_of(config) == released_zoom(version)
    assert build_layout(config).num_tokens == tokens


@pytest.mark.parametrize("cell", choices("experiment/cell"))
def test_every_cell_composes_with_its_experiment(cell):
    config = compose(["experiment=zoom_ablation", f"experiment/cell={cell}"])
    assert config["about"]["title"]
    assert config["name"] == "zoom_ablation"


def test_a_data_file_says_only_what_differs():
    base = yaml.safe_load((CONF / "data/_base.yaml").read_text())
    for choice in choices("data"):
        own = yaml.safe_load((CONF / f"data/{choice}.yaml").read_text())
        assert own.pop("defaults") == ["_base", "_self_"]
        assert [key for key, value in own.items() if key in base and value == base[key]] == []


def test_the_documented_command_for_a_cluster_composes():
    config = compose(["stage=1", "model=dragonfly_v1", "data=general_stage1", "trainer=gpu8"])
    assert (config["trainer"]["devices"], config["strategy"]["name"]) == (8, "ddp")
    assert config["stage"]["groups"][0]["lr"] == 2e-5


def test_what_the_user_says_wins_over_what_the_model_says():
    config = compose(["model=dragonfly_v1", "zoom=pool", "zoom.top_k=2", "zoom.regions=spatial"])
    assert (config["zoom"]["pool"], config["zoom"]["top_k"], config["zoom"]["regions"]) == (4, 2, "spatial")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stage=3", "stage=3 does not exist. Use one of 1, 2, biomed, dpo."),
        ("model=tinny", "model=tinny does not exist. Use one of dragonfly_v1, dragonfly_v2, tiny."),
        ("lr=1e-4", "lr is not a key of this configuration: every group of a stage has one. Use stage.groups.0.lr="),
        ("stage.lr=1", "stage.lr is not a key of this configuration: every group of a stage has one. Use stage.groups"),
        ("learning_rate=1", "learning_rate is not a key of this configuration: every group of a stage has one."),
        (
            "trainer.max_steps=3",
            "trainer.max_steps is not a key of this configuration: the schedule depends on it. Use",
        ),
        (
            "batch_size=3",
            "batch_size is not a key of this configuration: samples of a micro-batch are data.batch.size=3",
        ),
        (
            "data.batch_size=3",
            "data.batch_size is not a key of this configuration: samples of a micro-batch are data.b",
        ),
        (
            "epochs=3",
            "epochs is not a key of this configuration: a stage is counted in optimizer steps. Use stage.steps",
        ),
        ("zoom.topk=3", "zoom.topk is not a key of this configuration. Did you mean zoom.top_k"),
        ("cell=low", "cell is not a key of this configuration. Did you mean experiment/cell=low?"),
        ("traner.devices=2", "traner.devices is not a key of this configuration. Did you mean trainer.devices=2?"),
    ],
)
def test_a_mistyped_key_is_answered_with_the_nearest_one(override, said):
    with pytest.raises(Exception, match=r".") as error:
        compose([override])
    line = describe(error.value, "train", [override])
    assert line.startswith(said)
    assert "\n" not in line


@pytest.mark.parametrize("override", ["zoom=none", "model=tiny", "stage=2", "vision.path=x", "zoom.top_k=2"])
def test_what_a_checkpoint_has_chosen_is_no_key_of_an_evaluation(override):
    with pytest.raises(Exception, match=r".") as error:
        compose([override], "evaluate")
    line = describe(error.value, "evaluate", [override])
    assert line.startswith(f"{override.split('=')[0]} is not a key of evaluate.py: the checkpoint brings its own")
    assert "\n" not in line


def test_no_suggestion_is_the_key_that_was_refused():
    for config, key in (("evaluate", "data=demo"), ("evaluate", "trainer=gpu"), ("train", "shots=2")):
        with pytest.raises(Exception, match=r".") as error:
            compose([key], config)
        assert f"mean {key.split('=')[0]}?" not in describe(error.value, config)


@pytest.mark.parametrize("config", ["train", "evaluate"])
def test_every_key_that_people_type_leads_to_one_that_there_is(config):
    for word, said in USUAL[config].items():
        keys = re.findall(r"\b([a-z_]+(?:\.\w+)*)=", said)
        assert keys or "/" in said, word
        for key in keys:
            assert rule_of(config, key) is not None or key in groups(), (word, key)


def test_no_word_that_people_type_hides_a_key_that_there_is():
    """A word is answered before the nearest key is looked for, so it must not be a top-level key of its own."""
    for config, words in USUAL.items():
        assert not set(words) & set(compose([], config)), config
