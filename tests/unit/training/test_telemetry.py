"""What a run says about itself, in the file that it leaves behind."""

import csv
from collections import defaultdict
from random import Random

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from dragonfly_lit.models.flops import Trained, Work, step_flops
from dragonfly_lit.models.loss import LossSums
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.training.module import TrainingModule
from dragonfly_lit.training.stages import Group, Stage
from dragonfly_lit.training.strategies import Single
from dragonfly_lit.training.telemetry import Measures, PartLosses, Telemetry, by_kind

STEPS = 4


@pytest.fixture(scope="module")
def batch():
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=tiny_model().layout, max_tokens=400)
    samples = [
        Sample(key=answer, source=source, turns=(Turn(role="user", text="?"), Turn(role="assistant", text=answer)))
        for source, answer in (("short", "a"), ("long", "a long answer"))
    ]
    return collate([builder.build(sample) for sample in samples], pad_id=tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def run(batch, tmp_path_factory):
    telemetry, logger = Telemetry(every=2), CSVLogger(tmp_path_factory.mktemp("run"), name=None, version="")
    stage = Stage(name="1", steps=STEPS, groups=(Group(match="language.lm_head.*", lr=1e-3),))
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=Single(),
        max_steps=STEPS,
        max_epochs=-1,
        logger=logger,
        callbacks=[telemetry],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    loaders = (DataLoader([batch] * count, batch_size=None) for count in (STEPS, 1))
    trainer.fit(TrainingModule(tiny_model, stage), *loaders)
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return telemetry, list(csv.DictReader(file))


def test_a_line_is_written_every_so_many_steps(run):
    _, lines = run
    assert [line["step"] for line in lines if line["loss"]] == ["2", "4"]


def test_the_useful_share_leaves_padding_out(run, batch):
    telemetry, lines = run
    useful = (batch.sample_ids >= 0).float().mean()
    assert useful < 1
    assert telemetry.last["useful_tokens"] == pytest.approx(float(useful))
    written = [line["useful_tokens"] for line in lines if line["loss"]]
    assert float(written[-1]) == pytest.approx(float(useful))
    assert telemetry.last["supervised_tokens"] == int((batch.labels >= 0).sum())


def test_the_loss_is_the_mean_of_its_sources_by_their_tokens(run, batch):
    telemetry, _ = run
    counts = (batch.labels >= 0).sum(1).tolist()
    sources = [telemetry.last[f"loss/{source}"] for source in ("short", "long")]
    mean = sum(loss * count for loss, count in zip(sources, counts, strict=True)) / sum(counts)
    assert telemetry.last["loss"] == pytest.approx(mean, rel=1e-5)


def test_validation_has_lines_of_its_own(run):
    telemetry, lines = run
    assert set(telemetry.validated) == {"val_loss", "val_loss/short", "val_loss/long"}
    assert any(line.get("val_loss") for line in lines)


def test_flops_a_second_are_those_of_the_formula(run, batch):
    telemetry, _ = run
    lengths = (batch.sample_ids >= 0).sum(1)
    work = Work(
        images=0,
        tokens=int(lengths.sum()),
        pairs=int((lengths * (lengths + 1) // 2).sum()),
        supervised=int((batch.labels >= 0).sum()),
    )
    trained = Trained(vision=False, projector=False, language=True)
    flops_a_token = sum(step_flops(tiny_model().config, work, trained).values()) / work.tokens
    expected = telemetry.last["tokens_per_s"] * flops_a_token / 1e12
    assert telemetry.last["tflops_per_device"] == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(torch.tensor(telemetry.last["grad_norm"]))


ASKED = ("Describe the image.", "Is it red?", "What does the image show?", "How many?")


def drawn_sample(random, number):
    """A sample of one to four questions, each for itself or in one conversation, or of a caption without a question."""
    questions = [
        (random.choice(ASKED), random.choice(("a", "two circles", "yes"))) for _ in range(random.randint(1, 4))
    ]
    share, is_caption = random.random() < 0.5, len(questions) == 1 and random.random() < 0.3
    turns = [
        Turn(role=role, text=text) for pair in questions for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    source = random.choice("xy")
    return Sample(key=str(number), source=source, turns=tuple(turns), share_image=share, is_caption=is_caption)


def drawn_losses(seed):
    """The losses by source and kind that a class adds up, and those added up a sample and a token at a time."""
    random, tokenizer = Random(seed), tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=tiny_model().layout, max_tokens=600)
    found, by_source, by_kind = PartLosses(), defaultdict(list), defaultdict(list)
    for _ in range(3):
        drawn = [[drawn_sample(random, n) for n in range(random.randint(1, 3))] for _ in range(random.randint(1, 3))]
        batch = collate([pack([builder.build(one) for one in row]) for row in drawn], pad_id=tokenizer.pad_token_id)
        rows = (batch.labels.flatten() >= 0).nonzero().squeeze(1)
        losses = torch.arange(1.0, len(rows) + 1)
        found.add(batch, LossSums(loss=losses.sum(), weight=losses.sum(), token_losses=losses, rows=rows))
        for loss, place in zip(losses.tolist(), rows.tolist(), strict=True):
            sample = drawn[place // batch.labels.shape[1]][int(batch.sample_ids.flatten()[place])]
            asked = [turn.text for turn in sample.turns if turn.role == "user"]
            branch = int(batch.branch_ids.flatten()[place])
            one = asked[branch - 1] if sample.share_image else asked[0] if len(asked) == 1 else ""
            is_caption = sample.is_caption or one.startswith(("Describe", "What does"))
            by_source[sample.source].append(loss)
            by_kind["captions" if is_caption else "answers"].append(loss)
    means = [{k: sum(v) / len(v) for k, v in part.items()} if len(part) > 1 else {} for part in (by_source, by_kind)]
    return found, *means


@pytest.mark.parametrize("seed", range(8))
def test_losses_of_sources_and_kinds_are_the_means_of_their_tokens(seed):
    found, by_source, by_kind = drawn_losses(seed)
    assert found.means(1) == (pytest.approx(by_source), pytest.approx(by_kind))
    assert set(found.line(1, "val_")) == {f"val_loss/{s}" for s in by_source} | {f"val_loss_{k}" for k in by_kind}


def test_ranks_that_see_one_kind_each_report_both(monkeypatch):
    mine, theirs = {("a", "captions"): [6.0, 2.0]}, {("a", "answers"): [1.0, 4.0], ("a", "captions"): [2.0, 2.0]}
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda into, _: into.__setitem__(slice(None), [mine, theirs])
    )
    assert PartLosses().means(2) == ({}, {"answers": 0.25, "captions": 2.0})


def test_what_a_run_says_of_kinds_is_nothing_where_there_is_one(run):
    telemetry, _ = run
    assert not by_kind(telemetry.last)
    assert by_kind({"loss_captions": 3.0, "loss_answers": 0.01}) == "answers 0.0100, captions 3.0000"


def sums_of(weight: float, **measures: float) -> LossSums:
    none = torch.zeros(0)
    told = {name: torch.tensor(value) for name, value in measures.items()}
    return LossSums(torch.tensor(1.0), torch.tensor(weight), none, none.long(), told)


def test_a_measure_that_some_batches_and_ranks_do_not_have_is_divided_by_all_of_them(monkeypatch):
    here, there = Measures(), Measures()
    for sums in (sums_of(2.0, margin=3.0), sums_of(1.0, hits=4.0), sums_of(1.0)):
        here.add(sums)
    there.add(sums_of(4.0))
    assert here.means(1) == {"margin": 3 / 4, "hits": 1.0}
    assert there.means(1) == Measures().means(1) == {}

    def gathered(everyone, mine):
        everyone[:] = shown = [*held, mine]
        held[:] = shown

    for ranks in ((here, there), (there, here), (Measures(), here)):
        held = []
        monkeypatch.setattr("torch.distributed.all_gather_object", gathered)
        ranks[0].means(2)
        weight = 4.0 + 4.0 * (there in ranks)
        assert ranks[1].means(2) == {"margin": 3 / weight, "hits": 4 / weight}
