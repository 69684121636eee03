"""Weights in bfloat16 with float32 masters: nothing of the masters is lost, and little is cast."""

from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_job import ALL, PROJECTOR, largest_difference, micro_batches, run, run_ranks

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.models.zoom import ZoomRule
from dragonfly_lit.training.averaging import EMAWeightAveraging
from dragonfly_lit.training.checkpoint.locate import load_weights, step_folder
from dragonfly_lit.training.checkpoint.storage import described_tensors, read_tensors
from dragonfly_lit.training.network import TrainingNetwork, named_weights
from dragonfly_lit.training.precision import cast_weights
from dragonfly_lit.training.stages import Group, Stage, freeze
from dragonfly_lit.training.strategies import Single

JOB = {"groups": ALL, "steps": 7, "accumulate": 2, "num_batches": 11, "precision": "bf16"}
"""The tower thaws at step 3 and the language model freezes again at step 5."""
STILL = {"steps": 1, "stage_name": "3", "groups": (Group(match="*", lr=1e-30, weight_decay=0),)}
"""A stage that moves nothing: its weights are those that it started from."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, every=1, save={"keep_last": 99}, callbacks=(EMAWeightAveraging(decay=0.5),), **JOB)


def is_rounded(tensor):
    return torch.equal(tensor, tensor.bfloat16().float())


def stored(folder, kind):
    described = described_tensors(folder).items()
    found = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in described if name.startswith(kind)}
    read_tensors(folder, found)
    return found


@pytest.mark.parametrize("step", [1, 3, 5])
def test_resume_equals_never_stopping(whole, tmp_path, step):
    folder, straight = whole
    ema = (EMAWeightAveraging(decay=0.5),)
    resumed = run(tmp_path, resume=step_folder(folder, step), callbacks=ema, every=7, **JOB)
    assert resumed["losses"] == straight["losses"][step:]
    assert resumed["norms"] == straight["norms"][step:]
    for kind in ("weights/", "averages/", "optimizer/"):
        mine, theirs = (stored(step_folder(run, 7), kind) for run in (tmp_path, folder))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_checkpoints_and_averages_hold_the_masters(whole):
    for kind in ("weights/", "averages/"):
        found = stored(step_folder(whole[0], 7), kind)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        assert not is_rounded(found[f"{kind}projector.weight"])


def test_the_model_has_the_roundings_of_what_is_stored(tmp_path):
    seen = []

    class Looks(EMAWeightAveraging):
        def on_train_end(self, trainer, pl_module):
            super().on_train_end(trainer, pl_module)
            seen.append((named_weights(pl_module.model), pl_module.trained_weights()))

    run(tmp_path, callbacks=(Looks(decay=0.5),), **JOB)
    ((held, masters),) = seen
    assert held.keys() == masters.keys()
    assert all(torch.equal(held[name], masters[name].bfloat16()) for name in held)


def test_a_checkpoint_of_autocast_over_float32_weights_goes_on(tmp_path, monkeypatch):
    job = JOB | {"steps": 4}
    monkeypatch.setattr(Single, "holds_half", False)  # as versions before did it
    before = run(tmp_path / "before", every=2, **job)
    monkeypatch.undo()
    folder = step_folder(tmp_path / "before", 2)
    after = run(tmp_path / "after", resume=folder, **job)
    assert after["held"] == {"torch.bfloat16"}
    assert after["losses"] == pytest.approx(before["losses"][2:], rel=0.01)
    assert not is_rounded(after["weights"]["projector.weight"])


def test_the_next_stage_starts_from_the_masters_though_its_model_is_read_in_half(tmp_path):
    before = run(tmp_path / "before", **JOB)
    after = run(tmp_path / "after", init_from=tmp_path / "before", precision="bf16", dtype=torch.bfloat16, **STILL)
    assert largest_difference(before, after) == 0.0
    model = tiny_model()
    load_weights(model, tmp_path / "before")
    assert all(torch.equal(before["weights"][name], p) for name, p in model.named_parameters())


def test_fp32_has_no_masters(tmp_path):
    assert run(tmp_path, groups=PROJECTOR, steps=1)["held"] == {"torch.float32"}


class Gradients(pl.Callback):
    """Whether any gradient lies there when a forward begins."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_train_start(self, trainer, pl_module) -> None:
        def look(*_):
            weights = [weight for group in pl_module.optimizer.param_groups for weight in group["params"]]
            self.found.append(any(weight.grad is not None for weight in weights))

        pl_module.network.register_forward_pre_hook(look)


@pytest.mark.parametrize(("precision", "kept"), [("fp32", True), ("bf16", False)])
def test_no_gradient_of_a_step_lies_beside_the_activations_of_the_next(tmp_path, precision, kept):
    """Those of the micro-batch before do, where weights are float32; masters hold theirs by themselves."""
    looks = Gradients()
    run(tmp_path, callbacks=(looks,), precision=precision, groups=PROJECTOR, steps=3, accumulate=2)
    assert looks.found == [False, kept] * 3


RANKS = {"groups": ALL, "steps": 4, "rows": 1, "num_batches": 18, "precision": "bf16"}
"""The fifth sample has no image: a micro-batch of one rank lacks what the other rank's has."""
STEP_2 = "checkpoints/step-00000002"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    jobs = {
        "ddp": {"strategy": "ddp", "every": 2, "save": {"keep_last": 9}, **RANKS},
        "resumed": {"strategy": "ddp", "resume": f"ddp/{STEP_2}", **RANKS},
        "sums": {"strategy": "ddp", "strategy_options": {"bucket_mb": 0.01}, "gradients": "bfloat16", **RANKS},
        "shards": {"strategy": "fsdp", "resume": f"ddp/{STEP_2}", **RANKS},
    }
    return run_ranks(2, tmp_path_factory.mktemp("ranks"), jobs)


def test_two_ranks_equal_one_that_accumulates(two, tmp_path):
    alone = run(tmp_path, accumulate=2, **RANKS)
    assert alone["held"] == two["ddp"]["held"] == {"torch.bfloat16"}
    assert two["ddp"]["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert two["ddp"]["norms"] == pytest.approx(alone["norms"], rel=1e-5)
    assert largest_difference(alone, two["ddp"]) < 2e-6


def test_two_ranks_resume_exactly(two):
    assert largest_difference(two["ddp"], two["resumed"]) == 0.0
    assert two["ddp"]["losses"][2:] == two["resumed"]["losses"]


def test_masters_go_on_as_shards(two):
    assert two["shards"]["losses"] == pytest.approx(two["ddp"]["losses"][2:], rel=0.01)


def test_gradients_may_be_added_up_in_half(two):
    assert two["sums"]["losses"] == pytest.approx(two["ddp"]["losses"], rel=0.01)
    assert largest_difference(two["ddp"], two["sums"]) > 0


class Casts(TorchDispatchMode):
    """Bytes that are written by casts to another type, by what they are cast to; and whether a weight is cast."""

    def __init__(self, model) -> None:
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr(): name for name, p in model.named_parameters()}
        self.bytes, self.of_weights = Counter(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and out.dtype != args[0].dtype:
            self.bytes[str(out.dtype)] += out.numel() * out.element_size()
            if args[0].untyped_storage().data_ptr() in self.weights:
                self.of_weights.add(self.weights[args[0].untyped_storage().data_ptr()])
        return out


def step(groups, hold_half):
    """A step of a stage, and what it casts."""
    model = tiny_model()
    freeze(model, Stage(name="1", steps=1, groups=groups))
    cast_weights(model, "bf16", frozen=torch.bfloat16)
    network = TrainingNetwork(model.train(), "bf16")
    if hold_half:
        network.hold_half()
    (batch,) = micro_batches(1, rows=4, packed=True)
    with Casts(model) as casts:
        network(batch).loss.backward()
    return model, batch, casts


@pytest.mark.parametrize("groups", [PROJECTOR, (Group(match="*", lr=1.0),)])
def test_no_weight_is_cast_in_a_step(groups):
    _, _, casts = step(groups, True)
    assert casts.of_weights == set()
    _, _, autocast = step(groups, False)
    assert "projector.weight" in autocast.of_weights
    assert sum(casts.bytes.values()) < sum(autocast.bytes.values())


def test_a_frozen_tower_casts_its_pixels_and_nothing_else():
    model, batch, _ = step(PROJECTOR, True)
    with Casts(model) as casts, torch.no_grad():
        model.vision(batch.pixel_values.flatten(0, 1))
    pixels = batch.pixel_values.numel()
    assert casts.bytes == {"torch.float32": 4 * pixels, "torch.bfloat16": 2 * pixels}


def test_scores_and_rotary_frequencies_are_float32(monkeypatch):
    model, batch, _ = step(PROJECTOR, True)
    seen = []
    plain = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda text, *of: seen.append({t.dtype for t in of}) or plain(text, *of))
    _, ranking = model.encode_images(batch.pixel_values, batch.image_grids)
    assert ranking.scores.dtype == torch.float32
    assert seen == [{torch.float32}]
    assert {b.dtype for name, b in model.named_buffers() if "inv_freq" in name} == {torch.float32}


def test_a_part_of_ones_own_may_mix_types():
    class Mixes(ZoomRule):
        def __init__(self, layout, width):
            super().__init__(layout, width)
            self.direction = torch.nn.Linear(width, 1)

        def scores(self, medium, high, regions, project, question=None):
            return self.direction(project(high.mean(dim=2)).float()).squeeze(-1)

    model = tiny_model()
    model.zoom = Mixes(model.layout, model.config.text_config.hidden_size)
    freeze(model, Stage(name="1", steps=1, groups=(Group(match="zoom.*", lr=1.0),)))
    cast_weights(model, "bf16", frozen=torch.bfloat16)
    network = TrainingNetwork(model.train(), "bf16")
    masters = network.hold_half()
    (batch,) = micro_batches(1)
    network(batch).loss.backward()
    masters.collect()
    gradient = masters.weights["zoom.direction.weight"].grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
