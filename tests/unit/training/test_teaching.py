"""A teacher for the zoom rule: what each kept crop was worth, and what the rule learns from it."""

from typing import Any, cast

import pytest
import torch
from PIL import Image

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.launch import resolve_processes
from dragonfly_lit.app.objective import build_objective
from dragonfly_lit.app.planning import Machine, model_config, plan
from dragonfly_lit.models.flops import Work, language_flops
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.training.network import TrainingNetwork
from dragonfly_lit.training.objectives import Dpo, Supervised
from dragonfly_lit.training.teachers import Attention, Gradient, LeftOut, Teacher
from dragonfly_lit.training.teaching import Taught, lesson

PUPIL = {"_target_": "dragonfly_lit.models.find.Pupil", "explore": 0.0}
TEACHERS = (Attention(), Attention(blocks=None), Gradient(), LeftOut(crops=4))


class Recorded(Teacher):
    """Another teacher, whose words and reading are kept."""

    def __init__(self, teacher):
        self.teacher = teacher

    def __call__(self, reading):
        self.reading, self.said = reading, self.teacher(reading)
        return self.said

    def num_flops(self, config, work):
        return self.teacher.num_flops(config, work)


@pytest.fixture(scope="module")
def model():
    return tiny_model(zoom_selector=PUPIL).train()


def noise(seed):
    pixels = torch.randint(0, 256, (48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def sequences(model, count=3):
    builder = SequenceBuilder(tokenizer=tiny_tokenizer(), layout=model.layout, max_tokens=400)
    samples = []
    for n in range(count):
        images = () if n == 1 else (noise(n),)
        turns = (
            Turn(role="user", text="colour?" * (1 + n), num_images=len(images)),
            Turn(role="assistant", text="red sky"[: 3 + 2 * n]),
        )
        samples.append(Sample(key=f"s{n}", source="s", turns=turns, images=images))
    return [builder.build(sample) for sample in samples]


def batched(model, *, packed=False, count=3):
    rows = sequences(model, count)
    return collate([pack(rows)] if packed else rows, pad_id=0)


def said(model, teacher, batch):
    recorded = Recorded(teacher)
    sums = Taught(teacher=recorded)(model, batch, None)
    return recorded.said, recorded.reading, sums


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda t: f"{type(t).__name__}{vars(t)}")
def test_a_teacher_says_the_same_of_an_image_however_it_is_batched(model, teacher):
    rows = sequences(model)
    alone = [said(model, teacher, collate([rows[n]], pad_id=0))[0] for n in (0, 2)]
    for packed in (False, True):
        together, _, _ = said(model, teacher, batched(model, packed=packed))
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["packed_varlen", "sdpa", "eager"])
def test_attention_is_that_of_the_model_itself(model, implementation):
    batch = batched(model, count=1)
    model.language.set_attn_implementation(implementation)
    found, reading, _ = said(model, Attention(blocks=2), batch)
    assert model.language.config._attn_implementation == implementation
    model.language.set_attn_implementation("eager")
    with torch.no_grad():
        whole = model(**batch.model_inputs(), output_attentions=True).attentions
    model.language.set_attn_implementation("sdpa")
    paid = torch.stack(whole[:2]).mean(dim=(0, 2))[0, reading.sums.rows - 1].sum(0)
    crops = paid[reading.slots[0]].sum(-1)
    torch.testing.assert_close(found[0], crops / crops.sum(), atol=1e-6, rtol=1e-4)


def test_left_out_is_what_the_loss_rises_by_with_the_mean_in_a_crops_place(model):
    batch = batched(model, count=1)
    found, reading, sums = said(model, LeftOut(crops=4), batch)
    given = reading.embeddings.detach()
    mean = given[0][reading.slots[0]].mean(0)
    before = float(sums.token_losses.mean())
    for crop, places in enumerate(reading.slots[0]):
        changed = given.clone()
        changed[0, places] = mean
        with torch.no_grad():
            states = model.get_decoder()(inputs_embeds=changed).last_hidden_state
        losses = torch.nn.functional.cross_entropy(
            model.get_output_embeddings()(states)[0, sums.rows - 1], batch.labels[0, sums.rows]
        )
        assert float(found[0, crop]) == pytest.approx(max(0.0, float(losses) - before), abs=1e-5)
    assert found.abs().sum() > 0


def test_gradient_is_the_norm_of_the_slope_at_a_crop(model):
    found, reading, _ = said(model, Gradient(), batched(model, count=1))
    (slope,) = torch.autograd.grad(reading.sums.loss, reading.embeddings)
    norms = torch.stack([slope[0, places].norm() for places in reading.slots[0]])
    torch.testing.assert_close(found[0], norms / norms.sum())


@pytest.mark.parametrize("teacher", [Attention(), Gradient()], ids=lambda t: type(t).__name__)
def test_the_lesson_reaches_every_weight_of_the_rule_and_nothing_else(teacher):
    model = tiny_model(zoom_selector=PUPIL).train()
    batch = batched(model)
    grads = []
    for objective in (Taught(teacher=teacher, weight=3.0), Supervised()):
        model.zero_grad()
        TrainingNetwork(model, objective=objective)(batch).loss.backward()
        grads.append({name: weight.grad for name, weight in model.named_parameters()})
    taught, plain = grads
    for name, grad in taught.items():
        if name.startswith("zoom."):
            assert grad is not None
            assert grad.abs().sum() > 0, name
            assert plain[name] is None
        elif grad is not None:
            torch.testing.assert_close(grad, plain[name])


def test_a_stage_that_trains_the_rule_alone_has_a_gradient_too():
    model = tiny_model(zoom_selector=PUPIL).train()
    model.requires_grad_(False)
    model.zoom.requires_grad_(True)
    Taught(teacher=Gradient())(model, batched(model), None).loss.backward()
    assert model.zoom.out.weight.grad is not None
    assert model.zoom.out.weight.grad.abs().sum() > 0


def test_the_lesson_is_beside_the_loss_and_counts_as_the_answers_do(model):
    batch = batched(model)
    worth, reading, sums = said(model, Attention(), batch)
    with torch.no_grad():
        plain = Taught(teacher=Attention())(model, batch, None)
        _, ranking = model.encode_images(batch.pixel_values, batch.image_grids)
    assert not plain.measures  # as in validation
    lessons = lesson(ranking.scores, ranking.selected, worth)
    expected = (lessons * reading.by_image(batch.label_weights.flatten()[sums.rows])).sum()
    torch.testing.assert_close(sums.loss.detach() - plain.loss, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sums.measures["lesson"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(sums.weight, plain.weight)


def test_a_batch_without_an_image_gives_the_rule_a_gradient_of_zeros():
    model = tiny_model(zoom_selector=PUPIL).train()
    batch = collate([sequences(model)[1]], pad_id=0)
    Taught(teacher=Gradient())(model, batch, None).loss.backward()
    for name, weight in model.zoom.named_parameters():
        assert weight.grad is not None, name
        assert not weight.grad.any(), name


def test_scores_learn_which_kept_crop_is_worth_most():
    generator = torch.Generator().manual_seed(0)
    scores = torch.zeros(1, 6, requires_grad=True)
    optimizer = torch.optim.SGD([scores], lr=0.5)
    for _ in range(200):
        selected = torch.randperm(6, generator=generator)[:3].sort().values[None]
        worth = (selected == 4).float()
        optimizer.zero_grad()
        lesson(scores, selected, worth).sum().backward()
        optimizer.step()
    assert int(scores.argmax()) == 4
    nothing = lesson(scores, torch.tensor([[0, 1]]), torch.zeros(1, 2))
    assert float(nothing.detach()) == 0.0


def test_a_pupil_without_a_teacher_and_a_teacher_without_a_pupil_are_refused():
    pupil, plain = tiny_model(zoom_selector=PUPIL), tiny_model()
    for objective in (Supervised(), Dpo()):
        with pytest.raises(ValueError, match=r"zoom\.selector=Pupil learns from a teacher alone.*objective=taught"):
            objective.check(pupil)
    with pytest.raises(ValueError, match=r"ZoomIn has nothing to learn here.*zoom=find"):
        Taught(teacher=Gradient()).check(plain)
    Taught(teacher=Gradient()).check(pupil)
    Supervised().check(plain)
    pupil.zoom.requires_grad_(False)
    Supervised().check(pupil)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_is_refused_by_name():
    other: Any = Supervised()
    for build, told in (
        (lambda: Taught(teacher=Gradient(), weight=0), "objective.weight=0"),
        (lambda: Taught(teacher=other), "objective.teacher is a Supervised"),
        (lambda: Attention(blocks=0), "objective.teacher.blocks=0"),
        (lambda: Attention(blocks=cast("int", 1.0)), "objective.teacher.blocks=1.0: give a whole number"),
        (lambda: LeftOut(crops=0), "objective.teacher.crops=0"),
        (lambda: LeftOut(crops=cast("int", 2.5)), "objective.teacher.crops=2.5: give a whole number"),
    ):
        with pytest.raises(ValueError, match=told):
            build()


@pytest.mark.parametrize(
    ("cell", "teacher"), [("taught_attention", Attention), ("taught_gradient", Gradient), ("taught_left_out", LeftOut)]
)
def test_a_cell_names_its_teacher_and_its_cost_is_planned(cell, teacher):
    config = compose(["experiment=zoom_ablation", f"experiment/cell={cell}"])
    resolve_processes(config)
    objective = build_objective(config)
    assert isinstance(objective, Taught)
    assert type(objective.teacher) is teacher
    machine = Machine(gpu="H100", memory=80e9, peak=1e15, mfu=0.5, node=1e9, network=1e9)
    taught, plain = plan(config, machine), plan(config | {"objective": None}, machine)
    more = objective.more_flops(model_config(config), taught.work) * taught.accumulate
    assert taught.flops - plain.flops == pytest.approx(more)
    assert more > 0


def test_leaving_out_costs_a_forward_for_each_crop_and_attention_one_without_the_head():
    config, work = tiny_model(zoom_selector=PUPIL).config, Work(images=1, tokens=90, pairs=4000, supervised=3)
    once = sum(language_flops(config, work))
    assert LeftOut(crops=2).num_flops(config, work) == 2 * once
    assert LeftOut(crops=99).num_flops(config, work) == config.layout.zoom.num_high_kept * once
    linear, attention, _ = language_flops(config, work)
    assert Taught(teacher=Attention()).more_flops(config, work) == linear + attention
