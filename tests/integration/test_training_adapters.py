"""Low-rank adapters: they alone train, a run goes on from them, and whoever loads the weights gets them merged."""

import lightning.pytorch as pl
import pytest
import torch
from training_job import largest_difference, micro_batches, run

from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training.checkpoint.locate import load_weights, step_folder
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.stages import Group, Lora

pytest.importorskip("peft")

JOB = {
    "groups": (Group(match="language.*lora_*", lr=1e-2),),
    "steps": 4,
    "num_batches": 8,
    "stage": {"lora": Lora(rank=4, alpha=8, target=("q_proj", "down_proj"))},
}


class Keeps(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        self.model = pl_module.model


@pytest.fixture(scope="module", params=[False, True], ids=["all weights", "trained weights only"])
def trained(request, tmp_path_factory):
    folder, keeps = tmp_path_factory.mktemp("adapters"), Keeps()
    found = run(folder, callbacks=(keeps,), every=2, save={"trainable_only": request.param}, **JOB)
    return folder, found, keeps.model


def test_only_adapters_train(trained):
    _, found, model = trained
    before = dict(tiny_model().named_parameters())
    plain = {name.replace(".base_layer.", "."): w for name, w in found["weights"].items() if ".lora_" not in name}
    assert plain.keys() == before.keys()
    assert all(torch.equal(before[name], w) for name, w in plain.items())
    adapters = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(adapters) == 2 * 2 * 2  # A and B, two layers, two linear ones each
    assert all(found["weights"][name].any() for name in adapters)


def test_loaded_weights_are_merged(trained):
    folder, _, model = trained
    merged = tiny_model()
    load_weights(merged, folder)
    assert not torch.equal(
        merged.language.model.layers[0].self_attn.q_proj.weight,
        tiny_model().language.model.layers[0].self_attn.q_proj.weight,
    )
    (batch,) = micro_batches(1)
    with torch.no_grad():
        mine, theirs = (TrainingNetwork(m.eval())(batch).token_losses for m in (merged, model))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_a_run_goes_on_from_its_adapters(trained, tmp_path):
    folder, found, _ = trained
    resumed = run(tmp_path, resume=step_folder(folder, 2), **JOB)
    assert largest_difference(found, resumed) == 0.0


def test_a_next_stage_starts_from_the_merged_weights(trained, tmp_path):
    folder, _, _ = trained
    merged = tiny_model()
    load_weights(merged, folder)
    after = run(tmp_path, init_from=folder, stage_name="3", groups=(Group(match="projector.*", lr=1e-2),), steps=1)
    name = "language.model.layers.1.mlp.down_proj.weight"
    assert torch.equal(after["weights"][name], merged.get_parameter(name))
