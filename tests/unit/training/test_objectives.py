"""Objectives against their formulas, whatever lies beside what in a batch."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.launch import resolve_processes
from dragonfly_lit.app.objective import build_objective, refers
from dragonfly_lit.app.plan import show
from dragonfly_lit.app.planning import Machine, plan
from dragonfly_lit.app.values import check_values
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Batch, Sample, Turn
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.objectives import Dpo, Objective, Supervised
from dragonfly_lit.training.telemetry import PartLosses


class Answers(Objective):
    """A user's: how often the model is asked."""

    def __call__(self, model, batch, reference):
        return model.loss_sums(**batch.model_inputs(), labels=batch.labels)


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval()


@pytest.fixture(scope="module")
def builder(model):
    return SequenceBuilder(tokenizer=tiny_tokenizer(), layout=model.layout, max_tokens=400)


def pair(number: int, chosen: str, rejected: str, question: str = "colour?") -> Sample:
    turns = (Turn(role="user", text=question), Turn(role="assistant", text=chosen))
    return Sample(key=f"p{number}", source=f"s{number % 2}", turns=turns, rejected=rejected)


def log_probability(model, builder, turns) -> torch.Tensor:
    """Of the last answer, alone in its row."""
    sequence = builder.build(Sample(key="a", source="s", turns=turns))
    batch = collate([sequence], pad_id=builder.tokenizer.pad_token_id)
    return -model.loss_sums(**batch.model_inputs(), labels=batch.labels).token_losses


words = st.sampled_from(["red", "green", "red sky", "a red one", "no", "yes, it is", "blue\nsky"])
losses = st.sampled_from(["sigmoid", "ipo"])
pairs = st.lists(st.tuples(words, words).filter(lambda two: two[0] != two[1]), min_size=1, max_size=5)


@settings(max_examples=12, deadline=None)
@given(
    pairs=pairs, packed=st.booleans(), loss=st.sampled_from(["sigmoid", "ipo"]), smoothing=st.sampled_from([0.0, 0.1])
)
def test_the_loss_is_that_of_the_formula_over_answers_alone_in_their_rows(
    model, builder, pairs, packed, loss, smoothing
):
    samples = [pair(number, *two) for number, two in enumerate(pairs)]
    sequences = [builder.build(sample) for sample in samples]
    batch = collate([pack(sequences)] if packed else sequences, pad_id=builder.tokenizer.pad_token_id)
    generator = torch.Generator().manual_seed(len(pairs))
    reference = torch.rand(batch.outline.supervised.numel(), generator=generator)
    objective = Dpo(beta=0.3, loss=loss, label_smoothing=smoothing if loss == "sigmoid" else 0.0)
    with torch.no_grad():
        found = objective(model, batch, reference)
    given_by_pair = reference.split([0 + n for sample in samples for n in lengths(builder, sample)])
    expected = []
    for number, sample in enumerate(samples):
        gains = []
        for side, answer in enumerate((sample.turns[-1].text, sample.rejected)):
            turns = (*sample.turns[:-1], Turn(role="assistant", text=answer))
            gain = log_probability(model, builder, turns) + given_by_pair[2 * number + side]
            gains.append(gain.mean() if loss == "ipo" else gain.sum())
        margin = gains[0] - gains[1]
        if loss == "ipo":
            expected.append((margin - 1 / 0.6) ** 2)
        else:
            share = objective.label_smoothing
            expected.append(-(1 - share) * F.logsigmoid(0.3 * margin) - share * F.logsigmoid(-0.3 * margin))
    torch.testing.assert_close(found.token_losses, torch.stack(expected), atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(found.loss, torch.stack(expected).sum(), atol=1e-3, rtol=1e-3)
    assert float(found.weight) == len(samples)
    sources = PartLosses()
    sources.add(batch, found)
    by_source = [loss for number, loss in enumerate(expected) if number % 2]
    if by_source:
        assert sources.means(1)[0]["s1"] == pytest.approx(float(torch.stack(by_source).mean()), abs=1e-3)


def lengths(builder, sample):
    sequence = builder.build(sample)
    return [int(((sequence.labels != -100) & (sequence.branch_ids == branch)).sum()) for branch in (1, 2)]


def test_compared_with_itself_a_model_has_no_margin(model, builder):
    batch = collate([pack([builder.build(pair(n, "red", "green sky")) for n in range(3)])], pad_id=0)
    said = TrainingNetwork(model)(batch, tell=True).token_losses.detach()
    with torch.no_grad():
        found = Dpo()(model, batch, said)
    assert float(found.loss / found.weight) == pytest.approx(math.log(2), abs=1e-7)
    assert {name: float(value) for name, value in found.measures.items()} == dict.fromkeys(
        ("reward_chosen", "reward_margin", "reward_accuracy"), 0.0
    )


def test_supervised_is_the_model_s_own_loss_to_the_bit(model, builder):
    turns = (Turn(role="user", text="colour?"), Turn(role="assistant", text="red"))
    batch = collate([builder.build(Sample(key="a", source="s", turns=turns))], pad_id=0, weighting="sqrt")
    found = TrainingNetwork(model)(batch)
    plain = model.loss_sums(**batch.model_inputs(), labels=batch.labels, label_weights=batch.label_weights)
    assert torch.equal(found.loss, plain.loss)
    assert torch.equal(found.weight, plain.weight)
    assert not found.token_losses.requires_grad
    assert not found.measures


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda sums: None, r"Own gives a NoneType\. Give a dragonfly_lit\.models\.loss\.LossSums"),
        (lambda sums: sums.loss, r"Own gives a Tensor\. Give a "),
        (
            lambda sums: sums._replace(loss=sums.token_losses),
            r"gives a loss of shape \(4,\)\. Give one number",
        ),
        (lambda sums: sums._replace(weight=0), r"gives weight=0\. Give a tensor, not a Python int"),
        (lambda sums: sums._replace(rows=[0, 1]), r"gives rows=\[0, 1\]\. Give a tensor, not a Python list"),
        (lambda sums: sums._replace(measures={"mine": sums.token_losses}), r"gives a mine of shape \(4,\)"),
        (lambda sums: sums._replace(rows=sums.rows[:1]), r"token_losses of shape \(4,\) and rows of shape \(1,\)"),
        (lambda sums: sums._replace(loss=sums.loss.detach()), "gives a loss without a graph"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_an_objective_of_ones_own_gives_wrongly_is_one_line(model, builder, changed, told):
    class Own(Supervised):
        def __call__(self, model, batch, reference):
            return changed(super().__call__(model, batch, reference))

    turns = (Turn(role="user", text="colour?"), Turn(role="assistant", text="red"))
    batch = collate([builder.build(Sample(key="a", source="s", turns=turns))], pad_id=0)
    with pytest.raises(ValueError, match=f"^objective: .*{told}") as error:
        TrainingNetwork(model.train(), objective=Own())(batch)
    assert "\n" not in str(error.value)


def test_a_batch_without_a_label_weighs_nothing(model, builder):
    row = builder.build(pair(0, "red", "green"))
    batch = collate([row], pad_id=0)
    blank = collate([row], pad_id=0)._map(lambda tensor: tensor)
    blank = Batch(**{**vars(blank), "labels": torch.full_like(batch.labels, -100), "keys": ((),), "sources": ((),)})
    empty = torch.zeros(0, dtype=torch.long)
    blank = Batch(**{**vars(blank), "outline": type(batch.outline)(**{**vars(batch.outline), "supervised": empty})})
    found = Dpo()(model, blank, torch.zeros(0))
    assert (float(found.loss), float(found.weight)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"beta": 0}, "objective.beta=0"),
        ({"beta": math.nan}, "objective.beta=nan"),
        ({"loss": "hinge"}, "objective.loss=hinge is unknown"),
        ({"label_smoothing": 0.5}, "objective.label_smoothing=0.5"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "has no effect with objective.loss=ipo"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused_by_name(fields, told):
    with pytest.raises(ValueError, match=told):
        Dpo(**fields)


def test_the_stage_chooses_the_objective_and_the_command_line_may_choose_another():
    assert isinstance(build_objective(compose(["stage=1"])), Supervised)
    config = compose(["stage=dpo", "objective.beta=0.2"])
    check_values(config, "train")
    found = build_objective(config)
    assert isinstance(found, Dpo)
    assert found.beta == 0.2
    assert isinstance(build_objective(compose(["stage=dpo", "objective=supervised"])), Supervised)
    assert isinstance(build_objective({}), Supervised)  # of a run of an earlier version
    assert refers(compose(["stage=dpo"]))
    assert not refers(compose(["stage=2"]))
    assert not refers({})


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["stage=dpo", "model.supervise=all"], "model.supervise=all has no effect"),
        (["stage=dpo", "data.weighting=sqrt"], "data.weighting=sqrt has no effect"),
        (["objective._target_=collections.Counter"], "Let its class inherit from"),
        (["objective._target_=nowhere.Mine"], "objective"),
    ],
)
def test_an_objective_that_does_not_go_is_one_line(overrides, told):
    with pytest.raises(ValueError, match=told) as error:
        build_objective(compose(overrides))
    assert "\n" not in str(error.value)


def test_a_plan_counts_what_the_reference_keeps_and_computes():
    machine = Machine(gpu="H100", memory=80e9, peak=1e15, mfu=0.5, node=1e9, network=1e9)
    config = compose(["stage=dpo", "data=demo_preferences"])
    resolve_processes(config)
    found = plan(config, machine)
    _, trained = found.parameters
    assert found.memory.reference == 4 * trained
    usual = plan({**config, "objective": {"_target_": "dragonfly_lit.training.objectives.Supervised"}}, machine)
    assert usual.memory.reference == 0
    assert found.memory.held - usual.memory.held == 4 * trained
    assert 1.2 * usual.flops < found.flops < 1.6 * usual.flops
    assert "GB reference" in show(found, machine, [])
    assert "reference" not in show(usual, machine, [])


def test_adapters_are_not_kept_twice():
    pytest.importorskip("peft")
    machine = Machine(gpu="H100", memory=80e9, peak=1e15, mfu=0.5, node=1e9, network=1e9)
    lora = "stage.lora={_target_: dragonfly_lit.training.stages.Lora}"
    config = compose(["stage=dpo", lora, "stage.groups.0.match=language.*lora_*"])
    resolve_processes(config)
    assert plan(config, machine).memory.reference == 0
