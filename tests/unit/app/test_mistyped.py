"""A mistyped key is answered with what the chosen options have, then with what other options have: one line each."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from limits import patient

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.errors import describe
from dragonfly_lit.app.mistyped import check_marked
from dragonfly_lit.app.overrides import normalize_overrides

ROOT = Path(__file__).resolve().parents[3]
NO_KEY = "is not a key of this configuration"


def answer(config, arguments):
    """What a command line is answered."""
    given = normalize_overrides(arguments.split(), config)
    try:
        check_marked(given, config)
        compose(given, config)
    except Exception as error:
        return describe(error, config, given)
    return "taken"


OF_TRAIN = [
    # the keys of what was chosen
    ("stage=2 model=tiny model.zoom.top_q=3", f"model.zoom.top_q {NO_KEY}. Did you mean zoom.top_k=3?"),
    ("strategy=fsdp strategy.replicat=2", f"strategy.replicat {NO_KEY}. Did you mean strategy.replicate=2?"),
    ("data=mine data.pth=x", f"data.pth {NO_KEY}. Did you mean data.path=x?"),
    ("data=mine data.image=x", f"data.image {NO_KEY}. The keys of data are prepare, train, val, .*, path. If Drag.*"),
    (
        "optimizer=sgd stage.optimizer.momentm=1",
        f"stage.optimizer.momentm {NO_KEY}. Did you mean stage.opt.*=1?",
    ),
    ("objective=dpo objective.bta=1", f"objective.bta {NO_KEY}. Did you mean objective.beta=1?"),
    ("projector=mlp projector.hiden=3", f"projector.hiden {NO_KEY}. Did you mean projector.hidden=3?"),
    ("benchmark=probes benchmark.limt=4", f"benchmark.limt {NO_KEY}. Did you mean benchmark.limit=4?"),
    (
        "logger=wandb logger.wandb.projct=x",
        f"logger.wandb.projct {NO_KEY}. Did you mean logger.wandb.project=x? .*",
    ),
    (
        "callbacks.checkpoints.evry=5",
        ".* Did you mean callbacks.checkpoints.every=5? .*",
    ),
    ("stage.groups.0.lrr=3", f"stage.groups.0.lrr {NO_KEY}. Did you mean stage.groups.0.lr=3?"),
    ("Stage=2", f"Stage {NO_KEY}. Did you mean stage=2?"),
    ("image_size=336", f"image_size {NO_KEY}. Did you mean vision.image_size=336?"),
    # those of another choice
    (
        "strategy.replicate=2",
        f"strategy.replicate {NO_KEY}: it belongs to strategy=fsdp. Use strategy=fsdp strategy.replicate=2, or .*",
    ),
    ("data.path=x", f"data.path {NO_KEY}: it belongs to data=mine. Use data=mine data.path=x, or leave it out."),
    (
        "benchmark.limit=4",
        f"benchmark.limit {NO_KEY}: it belongs to benchmark=ai2d, .* and others. Choose one.*",
    ),
    (
        "projector.hiden=3",
        f"projector.hiden {NO_KEY}. Did you mean projector=mlp projector.hidden=3? If LinearProjector takes hiden, .*",
    ),
    ("shots=2", "shots is not a key of train.py: it belongs to python evaluate.py. Leave it out."),
    # where only a plus works, and where none does
    (
        "data=mine data.train.sources.mine.exclude=f",
        f"data.train.sources.mine.exclude {NO_KEY} yet: .* Add it: +data.train.sources.mine.exclude=f.",
    ),
    ("data=mine data.train.sources.mine.exlude=f", ".* Did you mean +data.train.sources.mine.exclude=f?"),
    (
        "vision.tower.dropout=0.1",
        f"vision.tower.dropout {NO_KEY}. If VisionTower takes dropout, add it: +vision.tower.dropout=0.1.",
    ),
    ("+seed=3", "+seed=3: there is seed already. Leave the + out: seed=3."),
    ("+strategy=ddp", "+strategy=ddp: there is strategy already. Leave the + out: strategy=ddp."),
    ("++strategy=ddp", "++strategy=ddp: there is strategy already. Leave the + out: strategy=ddp."),
    ("+stage=2", "+stage=2: there is stage already. Leave the + out: stage=2."),
    ("+modle=tiny", "+modle=tiny: nothing reads modle. Did you mean model=tiny, without the +?"),
    ("strategy@mine=ddp", "strategy@mine=ddp: a choice lies where its group has its place. Use strategy=ddp."),
    # what is taken away
    ("~sed", "~sed: there is no sed to take away. Did you mean ~seed?"),
    ("~resume", "~resume: resume is null already. Leave it out."),
    ("~seed=3", "~seed=3: seed is 0. Leave the value out: ~seed."),
    (
        "~optimizer=sgd",
        "~optimizer=sgd: optimizer has another choice. Use ~optimizer, or optimizer=CHOICE .*",
    ),
    (
        "~stage.groups.0",
        "~stage.groups.0: a part of a list is not taken away alone. .*: stage.groups=[...].",
    ),
    ("data.seed=${sed}", "data.seed refers to ${sed}, and there is no key sed. Name one that there is."),
    ("~seed", "~seed: a run needs seed. Leave this out, or give it another value: seed=VALUE."),
    # lists and values
    (
        "stage.groups.5.lr=1",
        "stage.groups.5.lr=1: stage.groups is a list of 2 parts, .* Use stage.groups.0.lr=1.*",
    ),
    (
        "stage.groups.match=x",
        "stage.groups.match=x: stage.groups is a list of .* Use stage.groups.0.match=x.*",
    ),
    ("trust.x=1", "trust.x=1: trust is an empty list. Give the whole list: trust=[...]."),
    ("seed.x=3", f"seed.x {NO_KEY}: seed is a value, 0, and has no keys below it. Use seed=3."),
    # what people type
    ("trainer.max_epochs=3", f"trainer.max_epochs {NO_KEY}: a stage is counted in optimizer steps. Use stage.steps."),
    ("learning_rate=1e-4", f"learning_rate {NO_KEY}: every group of a stage has one. Use stage.groups.0.lr=1e-4."),
    ("batch=8", f"batch {NO_KEY}: samples of a micro-batch are data.batch.size=8; .*"),
    ("gpus=2", f"gpus {NO_KEY}: use trainer=gpu, and trainer.devices=2 with strategy=ddp or fsdp."),
    (
        "model.llm=x",
        f"model.llm {NO_KEY}: the language model is a group of its own. Use language=NAME.*",
    ),
    ("stage=two", "stage=two does not exist. Use one of 1, 2, biomed, dpo."),
    ("stage=", "stage= names no choice. Use one of 1, 2, biomed, dpo."),
    ("hydra.lancher=x", "hydra.lancher is not a key of Hydra. Its keys are listed by python train.py --cfg hydra."),
]
OF_EVALUATE = [
    ("benchmark=popo", "benchmark=popo does not exist. Did you mean benchmark=pope? Use one of ai2d, .*"),
    ("benchmark.limt=4", f"benchmark.limt {NO_KEY}. Did you mean benchmark.limit=4?"),
    ("limit=4", f"limit {NO_KEY}: use benchmark.limit=4."),
    ("batch_size=4", f"batch_size {NO_KEY}: a batch is counted in tokens. Use batch_tokens=TOKENS."),
    ("ckpt=x", f"ckpt {NO_KEY}: use checkpoint=PATH, or checkpoint=auto for the newest of all runs."),
    ("judge.modl=x", f"judge.modl {NO_KEY}. Did you mean judge.model=x?"),
    ("data=demo", "data is not a key of evaluate.py: it belongs to python train.py. Leave it out."),
    (
        "stage=2",
        "stage is not a key of evaluate.py: the checkpoint brings its own, .* python train.py stage=2",
    ),
]


@pytest.mark.parametrize(
    ("config", "arguments", "said"),
    [("train", *each) for each in OF_TRAIN] + [("evaluate", *each) for each in OF_EVALUATE],
)
def test_a_mistyped_argument_is_one_line_with_the_way_out(config, arguments, said):
    line = answer(config, arguments)
    assert re.fullmatch(".*".join(re.escape(part) for part in said.split(".*")), line), line


def test_what_nothing_is_like_is_left_to_the_user(tmp_path):
    assert answer("train", "+new=1") == "taken"
    assert answer("train", "+modle=3 seed=${modle}") == "taken", "a value that another refers to"
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "laptop.yaml").write_text("defaults: [cpu, _self_]\nfans: 2\n")
    own = f"--config-dir={tmp_path} "
    assert answer("train", own + "trainer=laptop trainer.fan=3").endswith("Did you mean trainer.fans=3? " + FLAG)
    assert "it belongs to trainer=laptop. Use trainer=laptop trainer.fans=3" in answer("train", own + "trainer.fans=3")


FLAG = "A flag of Lightning's Trainer that is not listed is added by +trainer.FLAG=VALUE."


def test_a_key_that_a_job_misses_is_one_line_too(tmp_path):
    command = [sys.executable, "train.py", "~seed", f"runs_root={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patient(120))
    assert done.returncode == 1
    assert done.stderr == "error: ~seed: a run needs seed. Leave this out, or give it another value: seed=VALUE.\n"
