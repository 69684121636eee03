"""What a user gets wrong ends with one line: the key, the value and the way out, before a weight is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import InstantiationException, MissingConfigException
from limits import patient

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.check import check_multirun, check_objective, check_recipe_overrides
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.load import find_checkpoint, load_for_inference
from dragonfly_lit.app.overrides import check_types
from dragonfly_lit.app.train import fit

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stage=2"], r"init_from=auto: stage=2 .* no.* below .*Run `python train.py stage=1 model=tiny` first"),
        (["model=dragonfly_v1"], r"vision.path=weights/clip-vit-base-patch32 does not exist\. Download it"),
        (["data=mine", "data.path=nowhere"], r"nowhere"),
        (["data=general_stage1"], r"llava_pretrain"),
        (["init_from=nowhere"], r"init_from=nowhere does not exist"),
        (["resume=nowhere"], r"resume=nowhere does not exist"),
        (["trainer.precision=fp16"], r"trainer.precision=fp16.* Use bf16"),
        (["trainer.devices=2"], r"trainer.devices=2 .* strategy=single\. Use strategy=ddp or strategy=fsdp"),
        (["language.tokenizer=nowhere"], r"language.tokenizer=nowhere is not a folder with a tokenizer"),
        (["zoom.top_k=9"], r"zoom.top_k=9 .* Use 1 to"),
        (["zoom.pool=3"], r"zoom.pool=3 does not divide 4 patches .* Use one of 1, 2, 4"),
        (["stage.groups.0.match=projektor.*"], r"match=projektor\.\* matches no weight .* projector\.\*"),
    ],
)
def test_a_mistake_is_named_with_its_way_out(overrides, said, tmp_path):
    pytest.importorskip("easy_vqa")
    config = compose([*overrides, f"runs_root={tmp_path / 'runs'}", "stage.steps=1", "data.num_workers=0"])
    with pytest.raises(ValueError, match=said):
        fit(config)


def test_a_checkpoint_of_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint=auto finds no checkpoint .*train.py stage=1"):
        find_checkpoint("auto", str(tmp_path))
    with pytest.raises(ValueError, match="is neither a run, a checkpoint, a transformers folder nor a released folder"):
        load_for_inference(tmp_path)


def test_a_sweep_within_a_launch_is_refused():
    with pytest.raises(ValueError, match=r"started by 8 processes.*submitit_slurm"):
        check_multirun(8)
    check_multirun(1)


def test_what_this_project_says_is_not_hidden_by_its_cause():
    def wrapped(error, cause):
        error.__cause__ = cause
        return error

    ours = wrapped(ValueError("data.path=x is not a folder. Give one."), KeyError("x"))
    assert describe(ours, "train") == "data.path=x is not a folder. Give one."
    assert describe(wrapped(InstantiationException("Error in call"), ours), "train") == str(ours)


def test_a_launcher_or_sweeper_that_is_not_installed_says_how_to_get_it():
    error = MissingConfigException("", missing_cfg_file="hydra/sweeper/optuna", options=["basic"])
    assert describe(error, "train") == (
        "hydra/sweeper=optuna does not exist. Use one of basic; others come with pip install 'dragonfly_lit[sweep]'."
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model.recipe.2.lr=1"],
            r"lr=1 has no effect with stage=1\. Set model\.recipe\.1, or train stage=2",
        ),
        (["model.recipe.1.batch_size=9", "data.batch.mode=packed"], r"batch_size=9 has no effect .*data\.batch\.mode="),
        (
            ["model.recipe.1.batch_size=9", "data.batch.mode=padded", "data.batch.size=4"],
            r"=9 has no effect: data\.batch\.size=4 is set",
        ),
    ],
)
def test_a_recipe_that_the_run_does_not_look_at_is_refused(overrides, said):
    config = compose(overrides)
    with pytest.raises(ValueError, match=said):
        check_recipe_overrides(overrides, config, config["model"]["recipe"])


def test_a_recipe_that_the_run_looks_at_passes():
    for overrides in (
        ["model.recipe.1.batch_size=9", "data.batch.mode=padded"],
        ["stage=biomed", "model.recipe.2.lr=1"],
    ):
        recipes = {"1": {}, "2": {}, "biomed": "${model.recipe.2}"}
        check_recipe_overrides(overrides, compose(overrides), recipes)


def test_a_search_without_a_validation_loss_is_refused():
    optuna = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    with pytest.raises(ValueError, match=r"data.val=null with the sweeper .*OptunaSweeper"):
        check_objective(optuna, {"val": None})
    check_objective("hydra._internal.core_plugins.basic_sweeper.BasicSweeper", {"val": None})


def test_an_optional_group_is_left_out_by_null_and_a_needed_one_is_refused():
    assert compose(["benchmark=probes"])["benchmark"]["split"] == "test"
    assert "benchmark" not in compose(["experiment=zoom_ablation", "benchmark=null"])
    with pytest.raises(ValueError, match=r"strategy=null: train\.py needs a strategy\. Use one of ddp, fsdp, single"):
        compose(["strategy=null"])
    with pytest.raises(ValueError, match=r"benchmark=null: evaluate\.py needs a benchmark\. Use one of ai2d, "):
        compose(["benchmark=null"], config="evaluate")


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("stage.steps=1.5", "a whole number of at least 1 or auto"),
        ("stage.steps=inf", "a whole number of at least 1 or auto"),
        ("seed=nan", "a whole number of at least 0 and at most 4294967295"),
        ("stage.clip=[1]", "a number above 0 or null"),
        ("zoom.learned=maybe", "true or false"),
        ("stage.optimizer.betas=0.9", r"a list, \[a, b\]"),
        ("model.recipe.1=fast", r"a mapping, \{key: value\}"),
        ("seed=1,two,3", "a whole number of at least 0 and at most 4294967295"),
        ("trainer.val_every=abc", "a whole number of at least 1 or null"),
        ("seed=null", "a whole number of at least 0 and at most 4294967295"),
    ],
)
def test_a_value_of_another_type_than_its_key_is_refused_before_anything_is_built(override, wanted):
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=rf"^{key}=.* is not {wanted}\. The default is "):
        check_types([override], "train")


def test_values_of_the_right_type_pass_whatever_their_spelling():
    check_types(["--multirun", "+new=1", "~benchmark", "stage.steps=1e3", "stage.clip=1", "seed=1,2,3"], "train")
    check_types(["stage.clip=null", "trainer.val_every=5", "name='a,b'", "stage.steps=${seed}", "nonsense=1"], "train")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "traner.devices=2",
            "traner.devices is not a key of this configuration. Did you mean trainer.devices=2?",
        ),
        ("trainer.accelerator=tpu", "trainer.accelerator=tpu is unknown. Use one of cpu, gpu."),
        ("stage.steps=many", "stage.steps=many is not a whole number of at least 1 or auto. The default is 150."),
    ],
)
def test_a_mistake_ends_in_one_line_and_status_1(override, said):
    command = [sys.executable, "train.py", "stage=1", override]
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patient(120))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["+callbacks.es._target_=lightning.pytorch.callbacks.EarlyStopping", "+callbacks.es.monitr=val_loss"],
            r"callbacks\.es: EarlyStopping cannot be built: .*unexpected keyword argument 'monitr'",
        ),
        (["+callbacks.mine._target_=no_such_module.Mine"], r"callbacks\.mine: Mine cannot be built: .*no_such_module"),
        (["+callbacks.mine._target_=torch.optim.AdamX"], r"callbacks\.mine: AdamX cannot be built: .*AdamX"),
        (["+callbacks.mine._target_=torch.nn.Identity"], r"callbacks\.mine gives a Identity, which is not a lightning"),
        (["+callbacks.mine.every=3"], r"callbacks\.mine=.* has no _target_\. Name a class"),
        (
            ["callbacks=early_stopping", "data.val=null"],
            r"callbacks\.early_stopping\.monitor=val_loss, but data\.val=null",
        ),
        (
            ["callbacks=early_stopping", "+callbacks.early_stopping.mode=up"],
            r"callbacks\.early_stopping: .*min, max, got up",
        ),
        (
            ["callbacks=ema", "callbacks.ema.decay=2"],
            r"callbacks\.ema\.decay=2 is not a number of at least 0 and at most",
        ),
        (
            ["+callbacks.average._target_=lightning.pytorch.callbacks.EMAWeightAveraging"],
            r"callbacks\.average: EMAWeightAveraging copies the whole module .*callbacks=ema",
        ),
        (
            [
                "+callbacks.more._target_=lightning.pytorch.callbacks.GradientAccumulationScheduler",
                "+callbacks.more.scheduling={0: 2}",
            ],
            r"callbacks\.more: GradientAccumulationScheduler changes .* Use stage\.accumulate",
        ),
        (["+logger.mine.project=x"], r"logger\.mine=.* has no _target_"),
        (
            ["+logger.mine._target_=torch.nn.Identity"],
            r"logger\.mine gives a Identity, which is not a Lightning logger",
        ),
        (["+trainer.gradient_clip_val=1"], r"trainer\.gradient_clip_val .*Use stage\.clip"),
        (["+trainer.accumulate_grad_batches=2"], r"trainer\.accumulate_grad_batches .*Use stage\.accumulate"),
        (["+trainer.max_steps=2"], r"trainer\.max_steps .*Use stage\.steps"),
        (["+trainer.max_epochs=2"], r"trainer\.max_epochs .*Use stage\.steps"),
        (["+trainer.use_distributed_sampler=true"], r"trainer\.use_distributed_sampler .*dealt out to ranks"),
        (["+trainer.strategy=ddp"], r"trainer\.strategy .*strategy=ddp"),
        (["+trainer.callbacks=null"], r"trainer\.callbacks .*\+callbacks\.NAME\._target_=CLASS"),
        (["trainer.precision=16-mixed"], r"trainer\.precision=16-mixed.* Use bf16"),
        (["trainer.precision=bf16-mixed"], r"trainer\.precision=bf16-mixed .* Use bf16"),
        (["+trainer.determnistic=true"], r"trainer\.determnistic is not a flag .*Did you mean trainer\.deterministic"),
        (["trainer.profiler=fast"], r"trainer\.profiler=fast is unknown\. Use one of simple, advanced, pytorch"),
        (
            [
                "+trainer.plugins=[{_target_: lightning.pytorch.plugins.MixedPrecision, precision: bf16-mixed, "
                "device: cpu}]"
            ],
            r"trainer\.plugins: MixedPrecision would not be asked\. Use trainer\.precision",
        ),
        (["trainer.deterministic=perhaps"], r"trainer\.deterministic=perhaps is not true, false, warn or null"),
        (["optimizer=sgd", "+stage.optimizer.betas=[0,1]"], r"stage\.optimizer.* cannot be built: .*'betas'"),
        (["stage.optimizer._target_=torch.optim.Addam"], r"stage\.optimizer.*: Addam cannot be built"),
        (
            ["stage.schedule={_target_: my.schedule}"],
            r"stage\.schedule: schedule cannot be built: .*No module named 'my'",
        ),
        (["+stage.betas=[0.9, 0.95]"], r"stage\.betas has moved to stage\.optimizer\.betas"),
        (["+strategy.bucket=3"], r"strategy: Single cannot be built: .*'bucket'"),
    ],
)
def test_a_part_that_does_not_fit_is_one_line_that_names_its_key(overrides, said, tmp_path):
    pytest.importorskip("easy_vqa")
    config = compose([*overrides, f"runs_root={tmp_path / 'runs'}", "stage.steps=1", "data.num_workers=0"])
    with pytest.raises(ValueError, match=said) as error:
        fit(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.gradient_clip_val=1", "Use stage.clip."),
        ("trainer.val_batches=3", "Did you mean trainer.limit_val_batches"),
        ("stage.eps=1", "it has moved to stage.optimizer.eps."),
        ("logger.kinds=[csv]", "Use logger=csv, wandb or tensorboard."),
        ("callbacks.mine.monitor=x", "A callback of your own is added by +callbacks.NAME._target_=CLASS."),
        ("stage.optimizer.momentum=1", "it belongs to optimizer=sgd. Use optimizer=sgd stage.optimizer.momentum=1"),
        ("optimizer=adam", "optimizer=adam does not exist. Use one of adamw, adamw_8bit, sgd."),
        ("trainer=tpu", "Use one of cpu, gpu, gpu8."),
    ],
)
def test_a_key_that_is_elsewhere_says_where(override, said):
    with pytest.raises(Exception, match=r".") as error:
        compose([override])
    line = describe(error.value, "train", [override])
    assert said in line
    assert "\n" not in line
