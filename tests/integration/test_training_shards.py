"""Shards: repeated over nodes, in the host's memory, and a head that is gathered once for all rows."""

from functools import partial
from itertools import pairwise

import lightning.pytorch as pl
import pytest
import torch
from training_job import ALL, largest_difference, run, run_ranks

from dragonfly_lit.models import loss
from dragonfly_lit.models.tiny import tiny_model
from dragonfly_lit.training import sharding
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.sharding import ends, units
from dragonfly_lit.training.strategies import Fsdp, check_replicate

FOUR = {"groups": ALL, "steps": 3, "rows": 1, "num_batches": 18}
"""The fifth sample has no image: a micro-batch of one rank lacks what the others' have."""


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    options = {"replicate": 2, "activation_checkpointing": {"language": "selective"}}
    twice = {"strategy": "fsdp", "strategy_options": options, **FOUR}
    jobs = {"twice": {"every": 2, "save": {"keep_last": 9}, **twice}}
    jobs["resumed"] = {"resume": "twice/checkpoints/step-00000002", **twice}
    folder = tmp_path_factory.mktemp("four")
    return folder, run_ranks(4, folder, jobs)


def test_four_ranks_that_hold_shards_twice_equal_one_that_accumulates(four, tmp_path):
    folder, found = four
    alone = run(tmp_path / "alone", accumulate=4, **FOUR)
    assert found["twice"]["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert found["twice"]["norms"] == pytest.approx(alone["norms"], rel=1e-5)
    assert largest_difference(alone, found["twice"]) < 2e-6
    assert largest_difference(found["twice"], found["resumed"]) == 0.0
    on_one = run(tmp_path / "on", accumulate=4, resume=folder / "twice/checkpoints/step-00000002", **FOUR)
    assert largest_difference(alone, on_one) < 2e-6


@pytest.mark.parametrize(("replicate", "ranks"), [(3, 4), (8, 4), (0, 4)])
def test_shards_that_cannot_be_repeated_so_often_are_refused(replicate, ranks):
    with pytest.raises(ValueError, match=rf"^strategy\.replicate={replicate} does not divide the {ranks} processes"):
        check_replicate(replicate, ranks)


def test_embedding_and_head_are_units_unless_they_are_one():
    network = TrainingNetwork(tiny_model())
    language = network.model.language
    assert ends(network) == [language.get_input_embeddings(), language.get_output_embeddings()]
    assert set(ends(network)) <= set(units(network))
    language.lm_head.weight = language.get_input_embeddings().weight
    assert ends(network) == []
    assert not {language.lm_head, language.get_input_embeddings()} & set(units(network))


def test_a_block_asks_for_the_next_one_and_in_backward_for_the_one_before(monkeypatch):
    """The last one of the language model for the head, which stays gathered for backward."""
    asked = {"forward": [], "backward": []}
    for way, pairs in asked.items():
        name = f"set_modules_to_{way}_prefetch"
        monkeypatch.setattr(torch.nn.Module, name, lambda one, more, to=pairs: to.append((one, *more)), raising=False)
    network = TrainingNetwork(tiny_model())
    head = network.model.get_output_embeddings()
    sharding._prefetch(network, [head])
    layers, tower = list(network.model.language.model.layers), list(network.model.vision.blocks)
    forward = [*pairwise([*layers, head]), *pairwise(tower)]
    assert set(asked["forward"]) == set(forward)
    assert set(asked["backward"]) == {(later, earlier) for earlier, later in forward}


def test_the_state_of_shards_in_the_hosts_memory_stays_there(monkeypatch):
    from lightning.fabric.utilities.optimizer import _optimizers_to_device
    from lightning.pytorch.strategies import ModelParallelStrategy

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    optimizer.state[weight] = {"step": torch.zeros(()), "exp_avg": torch.zeros(3)}

    def lightnings_setup(self, trainer):
        self.setup_optimizers(trainer)
        _optimizers_to_device(self.optimizers, torch.device("meta"))

    def lightnings_optimizers(self, trainer):
        self.optimizers = [optimizer]

    monkeypatch.setattr(ModelParallelStrategy, "setup", lightnings_setup)
    monkeypatch.setattr(ModelParallelStrategy, "setup_optimizers", lightnings_optimizers)
    Fsdp(offload=True).setup(None)  # type: ignore[arg-type]
    assert optimizer.state[weight]["exp_avg"].device.type == "cpu"
    Fsdp().setup(None)  # type: ignore[arg-type]
    assert optimizer.state[weight]["exp_avg"].device.type == "meta"


def test_a_head_of_its_own_takes_all_rows_in_one_call(monkeypatch):
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(8, 32), torch.randn(1, 9, 8)
    labels = torch.randint(0, 32, (1, 9))
    plain = loss.loss_sums(hidden, head, labels, rows_per_chunk=3)
    calls = []
    monkeypatch.setattr(head, loss.AT_ONCE, lambda *rows: calls.append(rows) or loss.losses_of_rows(head, *rows), False)
    found = loss.loss_sums(hidden, head, labels, rows_per_chunk=3)
    assert len(calls) == 1
    assert torch.equal(found.loss, plain.loss)
    assert torch.equal(found.token_losses, plain.token_losses)
    # Shards round what floats among the arguments: that may be the head's input, and never a weight of a label.
    assert [len(a) for a in calls[0] if isinstance(a, torch.Tensor) and a.is_floating_point()] == [8]


class OneGraphEach(pl.Callback):
    """Compiles up to the kernels, which a GPU has; at the end there was one graph of each kind of block, and no more.

    The tower without gradients and with them, and the language model.
    """

    def setup(self, trainer, pl_module, stage):
        from torch._dynamo.utils import counters  # it takes seconds, and other tests of this file do without it

        counters.clear()
        self.counters = counters
        self.compiler, torch.compile = torch.compile, partial(torch.compile, backend="aot_eager")

    def on_train_end(self, trainer, pl_module):
        torch.compile = self.compiler
        assert (self.counters["stats"]["unique_graphs"], len(self.counters["graph_break"])) == (3, 0)


@pytest.mark.slow
def test_compiled_shards_are_those_that_are_not_compiled(tmp_path, unchecked):
    """As a GPU has them by default, with activations computed again."""
    job = {"strategy": "fsdp", "precision": "bf16", **FOUR}
    compiled = job | {"compile": "blocks", "callbacks": (OneGraphEach(),)}
    jobs = {"plain": job, "compiled": compiled}
    jobs["selective"] = compiled | {"strategy_options": {"activation_checkpointing": "selective"}}
    found = run_ranks(2, tmp_path, jobs)
    for name in ("compiled", "selective"):
        assert found[name]["losses"] == pytest.approx(found["plain"]["losses"], rel=1e-3)
        assert largest_difference(found["plain"], found[name]) < 1e-3
