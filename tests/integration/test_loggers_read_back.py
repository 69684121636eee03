"""What a run leaves for W&B (offline) and TensorBoard is read back: configuration, answers, pictures, scores, page."""

import json
import struct
import time

import pytest
import yaml
from limits import patient

from dragonfly_lit.app.build import compose
from dragonfly_lit.app.train import fit

pytest.importorskip("easy_vqa")
BLOCK, HEADER = 32768, 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps that asks two questions, scores itself and logs to both."""
    for name in ("wandb", "tensorboard"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.delenv("WANDB_DATA_DIR", raising=False)
        overrides = [
            "stage=1",
            "name=run",
            "logger=[wandb,tensorboard]",
            "stage.steps=2",
            "model.max_tokens=1024",
            "data.num_workers=0",
            "trainer.limit_val_batches=1",
            "callbacks.answers.count=2",
            "benchmark=easy_vqa",
            "benchmark.limit=2",
            "callbacks.progress=false",
            "+logger.wandb.id=of-all-its-starts",
            f"runs_root={folder / 'runs'}",
            f"data_root={folder / 'data'}",
        ]
        fit(compose(overrides))
        import wandb

        wandb.finish()
    # W&B's own process may still write when `finish` returns.
    wait_until = time.monotonic() + patient(60)
    while not any(record.HasField("exit") for record in records(folder / "runs/run")):
        assert time.monotonic() < wait_until
        time.sleep(0.1)
    return folder / "runs/run"


def chunks(data):
    """The records of a W&B file: LevelDB's log, whose blocks hold whole records and parts of them."""
    place, parts = HEADER, []
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if place + HEADER + length > len(data):  # not yet written
            return
        parts.append(data[place + HEADER : place + HEADER + length])
        place += HEADER + length
        if kind in (1, 4):  # the whole record, or its last part
            yield b"".join(parts)
            parts = []


def records(run):
    from wandb.proto import wandb_internal_pb2

    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    for chunk in chunks(file.read_bytes()):
        yield wandb_internal_pb2.Record.FromString(chunk)


def test_wandb_has_the_resolved_configuration(run):
    found = {}
    for record in records(run):
        updates = [*record.run.config.update, *record.config.update]
        found |= {update.key or ".".join(update.nested_key): json.loads(update.value_json) for update in updates}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: found.get(key) for key in config} == config


def test_wandb_takes_the_name_that_a_run_has_over_all_its_starts(run):
    (found,) = [record.run for record in records(run) if record.HasField("run")]
    assert found.run_id == "of-all-its-starts"


def test_wandb_has_scores_answers_and_pictures(run):
    logged, artifacts = {}, {}
    for record in records(run):
        for item in record.history.item:
            logged.setdefault(item.key or ".".join(item.nested_key), []).append(json.loads(item.value_json))
        if record.request.HasField("log_artifact"):
            artifact = record.request.log_artifact.artifact
            artifacts[artifact.name] = {entry.path for entry in artifact.manifest.contents}
        if record.HasField("artifact"):
            artifacts[record.artifact.name] = {entry.path for entry in record.artifact.manifest.contents}
    assert "loss" in logged
    result = json.loads((run / "result.json").read_text())["benchmarks"]["easy_vqa"]
    assert logged["score/easy_vqa"] == [result["scores"]["accuracy"] * result["scale"]]
    (table,) = run.glob("wandb/offline-run-*/files/media/table/answers*.json")
    rows = [json.loads(line) for line in next(run.glob("answers/*/answers.jsonl")).read_text().splitlines()]
    assert [row[:4] for row in json.loads(table.read_text())["data"]] == [list(row.values()) for row in rows]
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/zoom*.png"))) == 2
    pages = [files for name, files in artifacts.items() if name.startswith("results-")]
    assert pages == [{"report.html", "results.json", "results.md"}]


def test_tensorboard_has_hyperparameters_scores_answers_and_pictures(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0, "images": 0}).Reload()
    tags = events.Tags()
    result = json.loads((run / "result.json").read_text())["benchmarks"]["easy_vqa"]
    (score,) = events.Scalars("score/easy_vqa")
    assert score.value == pytest.approx(result["scores"]["accuracy"] * result["scale"])
    assert len([tag for tag in tags["images"] if tag.startswith("zoom/")]) == 2
    assert len([tag for tag in tags["tensors"] if tag.startswith("answers/")]) == 2
    hyperparameters = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"stage/groups" in hyperparameters
    assert b"zoom/top_k" in hyperparameters
