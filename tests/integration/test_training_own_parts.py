"""Callbacks, loggers, flags, optimizers and schedules of the user's own come in by configuration alone."""

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from users_folder import put_on_path

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.train import fit
from dragonfly_lit.training.callbacks import TimeLimit
from dragonfly_lit.training.checkpoint.format import read_info, read_state
from dragonfly_lit.training.checkpoint.locate import find_resume, list_checkpoints, step_folder

pytest.importorskip("easy_vqa")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = [
    "stage=1", "name=run", "stage.steps=2", "model.max_tokens=1024", "data.num_workers=0",
    "callbacks.answers=null", "callbacks.progress=false", "trainer.limit_val_batches=1", "trainer.log_every=1",
]  # fmt: skip
CSV = "lightning.pytorch.loggers.CSVLogger"


@pytest.fixture
def train(tmp_path, monkeypatch):
    put_on_path(EXAMPLES, monkeypatch)

    def run(*overrides: str) -> Path:
        fit(compose([*SMALL, f"runs_root={tmp_path}", *overrides]))
        return tmp_path / "run"

    return run


def metrics(run: Path, key: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def steps(run: Path) -> list[int]:
    return [info.step for _, info in list_checkpoints(run)]


STOPPING = (
    "+callbacks.early_stopping._target_=lightning.pytorch.callbacks.EarlyStopping",
    "+callbacks.early_stopping.monitor=val_loss",
    "+callbacks.early_stopping.min_delta=100",
    "+callbacks.early_stopping.patience=2",
    "trainer.val_every=1",
    "stage.steps=9",
)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_early_stopping_saves_its_last_step_with_its_state_and_says_how_it_went(train, capsys, accumulate):
    run = train(*STOPPING, f"stage.accumulate={accumulate}")
    assert steps(run) == [3]
    assert json.loads((run / "result.json").read_text())["val_loss"] == pytest.approx(metrics(run, "val_loss")[-1])
    (state,) = [s for n, s in read_state(step_folder(run, 3))["callbacks"].items() if n.startswith("EarlyStopping")]
    assert (state["wait_count"], float(state["best_score"])) == (2, pytest.approx(metrics(run, "val_loss")[0]))
    assert "Step 3 of 9 (resume=auto goes on), validation loss" in capsys.readouterr().out


def test_a_run_that_was_stopped_early_goes_on_exactly(train, tmp_path):
    logs = {name: f"callbacks.sample_log={tmp_path / name}.jsonl" for name in ("whole", "stopped", "on")}
    job = ("stage.steps=5", "trainer.val_every=1", "data.epoch.passes=null", "data.epoch.steps=4")
    train("name=whole", logs["whole"], *job)
    train(*STOPPING, *job, logs["stopped"])
    assert steps(tmp_path / "run") == [3]
    train("resume=auto", *job, logs["on"])
    files = {name: tmp_path / f"{name}.jsonl" for name in logs}
    lines = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}
    assert [line["step"] for line in lines["on"]] == [4, 5]
    assert lines["stopped"] + lines["on"] == lines["whole"]


def test_a_wish_to_stop_within_an_accumulation_waits_for_the_step(train):
    run = train("+callbacks.stops._target_=test_training_own_parts.StopsAtOnce", "stage.accumulate=3", "stage.steps=5")
    assert steps(run) == [1]
    assert read_state(step_folder(run, 1))["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 3


class StopsAtOnce(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = True


def test_a_time_limit_ends_after_a_step_and_saves_it(train):
    run = train("trainer.max_time=00:00:00:01", "stage.steps=900")
    assert 0 < steps(run)[-1] < 900
    assert json.loads((run / "result.json").read_text())["val_loss"] is not None


def test_a_benchmark_whose_data_are_missing_is_refused_before_anything_is_trained(train, tmp_path):
    with pytest.raises(ValueError, match="gqa: there is no folder"):
        train("benchmark=gqa")
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_has_its_time_anew(train):
    run = train("trainer.max_time=00:01:00:00")
    assert not any("Time" in name for name in read_state(step_folder(run, 2))["callbacks"])
    limit = TimeLimit("00:01:00:00")
    limit.load_state_dict({"time_elapsed": {"train": 3600.0}})  # of Lightning's own
    assert limit.time_elapsed() == 0


def test_monitors_log_the_rates_of_the_very_steps(train):
    run = train("callbacks=lr_monitor", "stage.steps=4", "stage.warmup=2")
    assert metrics(run, "lr-AdamW/projector.*") == pytest.approx(metrics(run, "lr"))


def test_device_statistics_are_logged(train):
    pytest.importorskip("psutil")
    run = train("callbacks=device_stats")
    assert metrics(run, "DeviceStatsMonitor.on_train_batch_start/cpu_percent")


def test_averages_and_early_stopping_together(train):
    run = train("callbacks=[ema,early_stopping]", "callbacks.ema.decay=0.5")
    assert {name.split("/")[0] for name in tensors(step_folder(run, 2))} == {"weights", "optimizer", "averages"}


def tensors(folder: Path) -> list[str]:
    from dragonfly_lit.training.checkpoint.format import saved_tensors

    return list(saved_tensors(folder))


def test_the_best_checkpoint_is_kept_by_lightnings_callback_and_loads(train, tmp_path):
    run = train(
        "+callbacks.best._target_=lightning.pytorch.callbacks.ModelCheckpoint",
        "+callbacks.best.monitor=val_loss",
        "+callbacks.best.dirpath=${runs_root}/${name}/best",
        "trainer.val_every=1",
        "stage.steps=3",
    )
    (best,) = (run / "best").iterdir()
    losses = metrics(run, "val_loss")
    assert read_info(best).step == 1 + losses.index(min(losses))


@pytest.mark.parametrize(("profiler", "files"), [("simple", "fit-simple.txt"), ("pytorch", "*.pt.trace.json")])
def test_a_profile_lies_in_the_runs_folder(train, profiler, files):
    run = train(f"trainer.profiler={profiler}", "stage.steps=6")
    assert list((run / "profile").glob(files))


def test_memory_that_torch_does_not_record_is_refused(train):
    with pytest.raises(ValueError, match=r"^callbacks\.memory_snapshot: torch records the memory of a GPU only"):
        train("callbacks=memory_snapshot")


def test_a_profiler_of_ones_own(train, tmp_path):
    node = f"{{_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: {tmp_path}, filename: mine}}"
    train(f"trainer.profiler={node}")
    assert (tmp_path / "fit-mine.txt").is_file()


def test_deterministic_kernels_and_the_search_for_anomalies_are_on_in_training(train):
    run = train(
        "trainer.deterministic=true",
        "trainer.detect_anomaly=true",
        "+callbacks.looks._target_=test_training_own_parts.Looks",
    )
    torch.use_deterministic_algorithms(False)
    assert steps(run) == [2]
    assert Looks.seen == (True, True)


class Looks(Callback):
    seen = (False, False)

    def on_before_backward(self, *args):
        Looks.seen = (torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled())


def test_overfitting_reads_the_same_batches_again_and_learns_them(train, tmp_path):
    log = tmp_path / "samples.jsonl"
    train("trainer.overfit_batches=2", "stage.steps=6", f"callbacks.sample_log={log}")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["keys"] for line in lines] == [lines[0]["keys"], lines[1]["keys"]] * 3
    assert lines[0]["keys"] != lines[1]["keys"]
    assert lines[4]["loss"] < lines[0]["loss"]


def test_a_trial_run_leaves_no_checkpoint(train):
    run = train("trainer.fast_dev_run=true", "stage.steps=9")
    assert steps(run) == []
    assert (run / "result.json").is_file()


@pytest.mark.parametrize(("limit", "batches"), [("1", 1), ("3", 3), ("0.02", None)])
def test_a_validation_looks_at_so_many_batches(train, limit, batches):
    train(f"trainer.limit_val_batches={limit}", "+callbacks.counts._target_=test_training_own_parts.Counts")
    assert Counts.seen == batches if batches else 0 < Counts.seen < Counts.all


class Counts(Callback):
    seen = all = 0

    def on_validation_start(self, trainer, pl_module):
        Counts.seen, Counts.all = 0, len(trainer.datamodule.val_dataloader())

    def on_validation_batch_end(self, *args):
        Counts.seen += 1


def test_shorter_epochs_go_on_in_the_data(train, tmp_path):
    logs = [tmp_path / name for name in ("whole.jsonl", "short.jsonl")]
    for log, limit in zip(logs, ("null", "2"), strict=True):
        train(f"callbacks.sample_log={log}", f"trainer.limit_train_batches={limit}", "stage.steps=5")
    whole, short = ([json.loads(line)["keys"] for line in log.read_text().splitlines()] for log in logs)
    assert whole == short


class Stub(Logger):
    """A logger of the user's own, without a package of its own."""

    lines: list[dict] = []  # noqa: RUF012 (read by the test)

    def __init__(self, greeting):
        super().__init__()
        self.greeting = greeting

    @property
    def name(self):
        return "stub"

    @property
    def version(self):
        return self.greeting

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.lines.append({"step": step, "by": self.greeting, **metrics})


def test_a_logger_of_ones_own_hears_what_the_others_hear(train):
    Stub.lines.clear()
    run = train("+logger.mine._target_=test_training_own_parts.Stub", "+logger.mine.greeting=hello")
    assert [line["loss"] for line in Stub.lines if "loss" in line] == pytest.approx(metrics(run, "loss"))
    assert {line["by"] for line in Stub.lines} == {"hello"}


def test_mlflow_writes_into_its_store(train, tmp_path):
    pytest.importorskip("mlflow")
    store = tmp_path / "mlflow.db"
    train(
        "+logger.mlflow._target_=lightning.pytorch.loggers.MLFlowLogger",
        f"+logger.mlflow.tracking_uri=sqlite:///{store}",
    )
    with closing(sqlite3.connect(store)) as found:
        assert found.execute("select count(*) from metrics where key = 'loss'").fetchone()[0] > 0


def test_metrics_of_before_are_kept_on_a_resume(train):
    run = train()
    train("resume=auto", "stage.steps=4")
    assert (run / "metrics.1.csv").is_file()
    assert len(metrics(run, "loss")) == 2


def test_a_group_of_several_choices_and_null_leave_out_what_they_name(train):
    run = train("callbacks=[ema,early_stopping]", "callbacks.ema=null", "logger.csv=null")
    assert not (run / "metrics.csv").exists()
    assert not [name for name in tensors(step_folder(run, 2)) if name.startswith("averages/")]


class TestExamples:
    """Each is one file; these are their commands."""

    def test_the_optimizer_trains_and_goes_on_exactly(self, train, tmp_path):
        node = "{_target_: my_parts.optimizer.Lion, _partial_: true, betas: [0.9, 0.99]}"
        lion = ("~stage.optimizer", f"+stage.optimizer={node}", "stage.steps=4", "callbacks.checkpoints.every=2")
        run = train(*lion, f"callbacks.sample_log={tmp_path / 'whole.jsonl'}")
        assert read_info(find_resume(run)).optimizer == "my_parts.optimizer.Lion"
        train(*lion, f"resume={step_folder(run, 2)}", f"callbacks.sample_log={tmp_path / 'on.jsonl'}")
        whole, on = ((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("whole", "on"))
        assert on == whole[2:]

    def test_the_schedule_decides_the_rate(self, train):
        run = train("stage.schedule={_target_: my_parts.schedule.inverse_sqrt, warmup: 2}", "stage.steps=4")
        rates = metrics(run, "lr")
        assert [rate / rates[1] for rate in rates] == pytest.approx([0.5, 1.0, (2 / 3) ** 0.5, (2 / 4) ** 0.5])

    def test_the_callback_stops_the_run_and_is_saved(self, train):
        alive = "+callbacks.alive"
        run = train(
            f"{alive}._target_=my_parts.callback.StopIfDead",
            f"{alive}.least=1e9",
            f"{alive}.patience=3",
            "stage.steps=9",
        )
        assert steps(run) == [3]
        assert read_state(step_folder(run, 3))["callbacks"]["StopIfDead"]["dead"] == 3
        assert len(metrics(run, "largest_grad_norm")) == 3


FOCAL = "objective._target_=my_parts.objective.Focal"


def test_an_objective_of_ones_own_is_what_a_stage_lowers(train):
    run = train(FOCAL, "+objective.gamma=2.0")
    usual = train("name=usual").with_name("usual")
    same = train(FOCAL, "+objective.gamma=0", "name=same").with_name("same")
    assert metrics(same, "loss") == pytest.approx(metrics(usual, "loss"), rel=1e-5)
    assert metrics(same, "hardness") == [1.0, 1.0]
    assert metrics(run, "loss")[0] < metrics(usual, "loss")[0]
    assert 0 < metrics(run, "hardness")[0] < 1
    assert read_info(find_resume(run)).objective == "my_parts.objective.Focal"
