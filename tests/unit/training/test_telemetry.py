"""What a run says about itself, in the file that it leaves behind."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from dragonfly_lit.models.flops import Trained, Work, step_flops
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.batches import collate
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.training.module import TrainingModule
from dragonfly_lit.training.stages import Group, Stage
from dragonfly_lit.training.strategies import Single
from dragonfly_lit.training.telemetry import Telemetry

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
