"""Any optimizer: a run that is stopped and goes on is the run that never stopped, to the bit."""

from functools import partial

import pytest
import torch
from training_job import ALL, PROJECTOR, largest_difference, run, run_ranks

from dragonfly_lit.training.checkpoint.format import read_info
from dragonfly_lit.training.checkpoint.locate import step_folder
from dragonfly_lit.training.stages import Group

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "adamw with amsgrad": partial(torch.optim.AdamW, amsgrad=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.5, centered=True),
    "asgd": torch.optim.ASGD,
    "adafactor": torch.optim.Adafactor,
}
JOB = {"groups": ALL, "steps": 7, "accumulate": 2, "num_batches": 11}
"""The tower thaws at step 3 and the language model freezes again at step 5, so some state begins late."""
FREE = tuple(Group(match=g.match, lr=g.lr, weight_decay=0, from_step=g.from_step) for g in ALL)


def adamw_8bit(**options):
    found = pytest.importorskip("bitsandbytes", reason="pip install 'dragonfly_lit[bnb]' has it run")
    return partial(found.optim.AdamW8bit, min_8bit_size=256, **options)


class Counts(torch.optim.Optimizer):
    """Keeps a number by weight and a number by group that it changes itself, as some do."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr, "scale": 1.0})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        for group in self.param_groups:
            group["scale"] *= 0.9
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["count"] = self.state[p].get("count", 0) + 1
                    p.add_(p.grad, alpha=-group["lr"] * group["scale"] / self.state[p]["count"])


class Hides(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p]["secret"] = {1, 2}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_resume_equals_never_stopping(name, tmp_path):
    job = JOB | {"stage": {"optimizer": OPTIMIZERS[name]}}
    whole = run(tmp_path / "whole", every=1, save={"keep_last": 99}, **job)
    for step in (2, 4):
        resumed = run(tmp_path / f"from-{step}", resume=step_folder(tmp_path / "whole", step), **job)
        assert largest_difference(whole, resumed) == 0.0
        assert resumed["losses"] == whole["losses"][step:]


def test_numbers_that_an_optimizer_keeps_beside_tensors_resume(tmp_path):
    job = JOB | {"groups": FREE, "stage": {"optimizer": Counts}}
    whole = run(tmp_path / "whole", every=4, **job)
    resumed = run(tmp_path / "on", resume=step_folder(tmp_path / "whole", 4), **job)
    assert largest_difference(whole, resumed) == 0.0


def test_state_that_a_checkpoint_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"Hides keeps a set as projector\.weight/secret"):
        run(tmp_path, groups=PROJECTOR, steps=1, stage={"optimizer": Hides})


def test_another_optimizer_does_not_go_on_with_this_one(tmp_path):
    job = {"groups": PROJECTOR, "steps": 2}
    run(tmp_path / "whole", every=1, **job)
    assert "optimizer" not in (step_folder(tmp_path / "whole", 1) / "checkpoint.json").read_text().replace(
        "optimizer/", ""
    )
    with pytest.raises(
        ValueError, match=r"holds the state of torch\.optim\.adamw\.AdamW, this run has .*SGD.*init_from"
    ):
        run(tmp_path / "on", resume=step_folder(tmp_path / "whole", 1), stage={"optimizer": torch.optim.SGD}, **job)


def test_a_checkpoint_says_whose_state_it_holds(tmp_path):
    run(tmp_path, groups=PROJECTOR, steps=1, stage={"optimizer": torch.optim.SGD})
    assert read_info(step_folder(tmp_path, 1)).optimizer == "torch.optim.sgd.SGD"


def test_weight_decay_that_would_do_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weight_decay=0\.1, but .*Counts does not decay weights"):
        run(tmp_path, groups=PROJECTOR, stage={"optimizer": Counts})


def test_an_argument_that_the_optimizer_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"stage\.optimizer cannot be built: .*unexpected keyword argument 'betaz'"):
        run(tmp_path, groups=PROJECTOR, stage={"optimizer": partial(torch.optim.SGD, betaz=1)})


def test_sharded_ranks_resume_and_equal_one_process(tmp_path):
    names = ("sgd", "adam")
    jobs = {}
    for name in names:
        job = {
            "strategy": "fsdp",
            "groups": ALL,
            "steps": 5,
            "num_batches": 12,
            "stage": {"optimizer": OPTIMIZERS[name]},
        }
        jobs[name] = {"every": 2, "save": {"keep_last": 9}, **job}
        jobs[f"{name}-on"] = {"resume": f"{name}/checkpoints/step-00000002", **job}
    two = run_ranks(2, tmp_path, jobs)
    for name in names:
        assert largest_difference(two[name], two[f"{name}-on"]) == 0.0
        alone = run(
            tmp_path / f"{name}-alone",
            groups=ALL,
            steps=5,
            accumulate=2,
            num_batches=12,
            stage={"optimizer": OPTIMIZERS[name]},
        )
        assert largest_difference(alone, two[name]) < 1e-5


def test_moments_of_8_bits_follow_adamw_and_resume_exactly(tmp_path):
    job = JOB | {"stage": {"optimizer": adamw_8bit()}}
    whole = run(tmp_path / "whole", every=1, save={"keep_last": 99}, **job)
    for step in (2, 4):
        resumed = run(tmp_path / f"from-{step}", resume=step_folder(tmp_path / "whole", step), **job)
        assert largest_difference(whole, resumed) == 0.0
    exact = run(tmp_path / "exact", **JOB)
    assert whole["losses"] == pytest.approx(exact["losses"], rel=1e-2)
    assert largest_difference(whole, exact) > 0.0


def test_moments_of_8_bits_and_shards_are_refused(tmp_path):
    job = JOB | {"strategy": "fsdp", "stage": {"optimizer": adamw_8bit()}}
    with pytest.raises(AssertionError, match=r"AdamW8bit cannot move the shards of strategy=fsdp. Use strategy=ddp"):
        run_ranks(2, tmp_path, {"job": job})
