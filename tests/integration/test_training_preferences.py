"""Preferences: the first loss is ln 2, a resumed run is one that never stopped, two ranks are one."""

import math
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from PIL import Image
from training_job import batched, image_of, largest_difference, run, run_ranks

from dragonfly_lit.models.quantized import quantize_layers
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.spec.records import Batch, Sample, Turn
from dragonfly_lit.training.checkpoint.locate import load_weights, step_folder
from dragonfly_lit.training.checkpoint.storage import described_tensors
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.objectives import Dpo
from dragonfly_lit.training.stages import Group, Lora

GROUPS = (Group(match="projector.*", lr=1e-2), Group(match="language.*", lr=2e-3))
WORDS = ("red", "green", "blue sky")


def noise_of(i: int) -> tuple[Image.Image, ...]:
    """An image whose crops all differ, so that it matters which of them are kept."""
    pixels = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
    return (Image.fromarray(pixels.numpy()),)


def preferences(count: int, images: Callable[[int], tuple[Image.Image, ...]] = image_of) -> list[Sample]:
    """Images with the right answer and a wrong one."""
    found = []
    for i in range(count):
        image = images(i)
        turns = (
            Turn(role="user", text="colour?", num_images=len(image)),
            Turn(role="assistant", text=WORDS[i % 3]),
        )
        rejected = WORDS[(i + 1 + i % 2) % 3]
        found.append(Sample(key=f"pair-{i}", source="pairs", turns=turns, images=image, rejected=rejected))
    return found


def batches(count: int, rows: int = 2, packed: bool = True) -> list[Batch]:
    return batched(preferences(count * rows), rows, packed=packed)


JOB = {"groups": GROUPS, "stage_name": "dpo", "objective": Dpo(), "steps": 6}
HALF = {"precision": "bf16"}
ADAPTERS = {
    "groups": (Group(match="language.*lora_*", lr=1e-2),),
    "stage": {"lora": Lora(rank=4, alpha=8, target=("q_proj", "down_proj"))},
}


class Keeps(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        self.module = pl_module


@pytest.mark.parametrize("how", [{}, HALF, ADAPTERS], ids=["copy", "bfloat16", "adapters"])
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
def test_the_first_loss_is_ln_2_and_then_falls(tmp_path, how, packed):
    if how is ADAPTERS:
        pytest.importorskip("peft")
    faster = {"groups": (Group(match="language.*lora_*", lr=5e-2),)} if how is ADAPTERS else {}
    found = run(tmp_path, batches=batches(3, packed=packed), **JOB | how | faster | {"steps": 18})
    assert found["losses"][0] == pytest.approx(math.log(2), abs=1e-7)
    assert sum(found["losses"][-3:]) < 0.9 * sum(found["losses"][:3])


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
def test_a_zoom_rule_that_explores_shows_both_passes_the_same_crops(tmp_path, trains):
    groups = (*GROUPS, Group(match="zoom.*", lr=1e-2)) if trains else GROUPS
    zoom = {"zoom_selector": {"_target_": "dragonfly_lit.models.find.Find", "explore": 3.0}}
    job = JOB | {"groups": groups, "model": zoom, "steps": 2, "batches": batched(preferences(8, noise_of), 2)}
    found = run(tmp_path, **job)
    assert found["losses"][0] == pytest.approx(math.log(2), abs=1e-7)
    moved = [
        not torch.equal(weight, found["weights"][name])
        for name, weight in tiny_model(**zoom).named_parameters()
        if name.startswith("zoom.")
    ]
    assert moved
    assert all(moved) if trains else not any(moved)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_beside_few_bits_the_first_loss_is_ln_2_and_only_adapters_move(tmp_path, kind):
    pytest.importorskip("peft")
    if kind == "nf4":
        pytest.importorskip("bitsandbytes")

    def quantized():
        model = tiny_model()
        quantize_layers(model.language, kind)
        return model

    few = {"model_factory": quantized, "skeleton_factory": None, "batches": batches(6)}
    whole = run(tmp_path / "whole", every=2, **JOB | ADAPTERS | few | {"steps": 4})
    assert whole["losses"][0] == pytest.approx(math.log(2), abs=1e-7)
    assert whole["losses"][1] != whole["losses"][0]
    assert not any(n.startswith("reference/") for n in described_tensors(step_folder(tmp_path / "whole", 2)))
    resumed = run(tmp_path / "on", resume=step_folder(tmp_path / "whole", 2), **JOB | ADAPTERS | few | {"steps": 4})
    assert resumed["losses"] == whole["losses"][2:]
    assert largest_difference(whole, resumed) == 0.0


@pytest.mark.parametrize("how", [{}, HALF, ADAPTERS], ids=["copy", "bfloat16", "adapters"])
@pytest.mark.parametrize("trainable_only", [False, True], ids=["whole", "trained"])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path, how, trainable_only):
    if how is ADAPTERS:
        pytest.importorskip("peft")
    job = JOB | how | {"batches": batches(7), "accumulate": 2}
    whole = run(tmp_path / "whole", every=1, save={"keep_last": 9, "trainable_only": trainable_only}, **job)
    for step in (1, 4):
        resumed = run(tmp_path / f"on-{step}", resume=step_folder(tmp_path / "whole", step), **job)
        assert largest_difference(whole, resumed) == 0.0
        assert resumed["losses"] == whole["losses"][step:]


def test_a_resume_takes_the_reference_from_the_checkpoint_and_not_from_where_it_starts(tmp_path):
    job = JOB | {"batches": batches(7)}
    run(tmp_path / "before", groups=GROUPS, stage_name="1", steps=3)
    whole = run(tmp_path / "whole", every=2, init_from=tmp_path / "before", **job)
    resumed = run(tmp_path / "on", resume=step_folder(tmp_path / "whole", 4), **job)
    assert resumed["losses"] == whole["losses"][4:]


def test_a_checkpoint_holds_the_reference_of_what_trains_and_nothing_twice(tmp_path):
    run(tmp_path / "copy", batches=batches(2), **JOB | {"steps": 1})
    names = described_tensors(step_folder(tmp_path / "copy", 1))
    kept = {name.removeprefix("reference/") for name in names if name.startswith("reference/")}
    model = tiny_model()
    assert kept == {n for n, _ in model.named_parameters() if n.startswith(("projector.", "language."))}
    load_weights(model, tmp_path / "copy")  # whoever takes the weights does not look at it
    pytest.importorskip("peft")
    run(tmp_path / "adapters", batches=batches(2), **JOB | ADAPTERS | {"steps": 1})
    assert not any(n.startswith("reference/") for n in described_tensors(step_folder(tmp_path / "adapters", 1)))


@pytest.mark.parametrize("how", [{}, HALF, ADAPTERS], ids=["copy", "bfloat16", "adapters"])
def test_the_reference_never_moves_and_leaves_the_model_as_it_was(tmp_path, how):
    if how is ADAPTERS:
        pytest.importorskip("peft")
    keeps = Keeps()
    run(tmp_path, batches=batches(4), callbacks=(keeps,), **JOB | how)
    module, (batch,) = keeps.module, batches(1)
    model = tiny_model()
    if how is HALF:
        model = model.to(torch.bfloat16)
    plain = TrainingNetwork(model.eval())
    modes = [part.training for part in module.network.modules()]
    before = {name: p.clone() for name, p in module.model.named_parameters()}
    with torch.no_grad():
        said = plain(batch, tell=True).token_losses
        trained = module.network(batch, tell=True).token_losses
    told = module._told(batch).token_losses
    assert torch.equal(told, said)
    assert not torch.equal(trained, said)
    assert all(torch.equal(before[name], p) for name, p in module.model.named_parameters())
    assert modes == [part.training for part in module.network.modules()]


def test_dropout_is_off_for_the_reference_alone(tmp_path):
    pytest.importorskip("peft")
    lora = Lora(rank=4, alpha=8, dropout=0.5, target=("q_proj", "down_proj"))
    keeps = Keeps()
    run(tmp_path, batches=batches(4), callbacks=(keeps,), **JOB | ADAPTERS | {"stage": {"lora": lora}})
    (batch,) = batches(1)
    keeps.module.network.train()
    assert torch.equal(*(keeps.module._told(batch).token_losses for _ in range(2)))
    assert not torch.equal(*(keeps.module.network(batch, tell=True).token_losses for _ in range(2)))


def test_another_objective_does_not_go_on(tmp_path):
    run(tmp_path / "dpo", batches=batches(4), every=1, **JOB | {"steps": 2})
    with pytest.raises(ValueError, match=r"was trained with the objective dragonfly_lit.*Dpo.* use init_from"):
        run(tmp_path / "on", resume=step_folder(tmp_path / "dpo", 1), groups=GROUPS, stage_name="dpo", steps=2)


def test_how_pairs_are_dealt_out_does_not_change_a_step(tmp_path):
    one = run(tmp_path / "one", batches=batches(3, rows=4), **JOB | {"steps": 3})
    many = run(tmp_path / "many", batches=batches(12, rows=1), **JOB | {"steps": 3, "accumulate": 4})
    assert largest_difference(one, many) < 2e-5
    assert many["losses"] == pytest.approx(one["losses"], rel=1e-5)


@pytest.mark.parametrize(("strategy", "how"), [("ddp", {}), ("ddp", HALF), ("fsdp", {}), ("fsdp", ADAPTERS)])
def test_two_ranks_equal_one_and_go_on(tmp_path, strategy, how):
    if how is ADAPTERS:
        pytest.importorskip("peft")
    job = JOB | how | {"batches": batches(8), "steps": 4}
    alone = run(tmp_path / "alone", **job | {"accumulate": 2})
    both = job | {"strategy": strategy}
    jobs = {
        "whole": both | {"every": 2},
        "on": both | {"resume": Path("whole/checkpoints/step-00000002")},
    }
    found = run_ranks(2, tmp_path, jobs)
    exact = {"atol": 2e-5} if how is not HALF else {"atol": 3e-3}
    assert found["whole"]["losses"][0] == pytest.approx(math.log(2), abs=1e-7)
    assert found["whole"]["losses"] == pytest.approx(alone["losses"], abs=exact["atol"])
    assert largest_difference(alone, found["whole"]) < 10 * exact["atol"]
    assert largest_difference(found["whole"], found["on"]) == 0.0
