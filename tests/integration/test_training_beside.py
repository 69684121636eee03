"""What stands beside training (sample answers, pictures, loggers, log files) never ends a run; checkpoints go first."""

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
from lightning.pytorch.loggers import Logger
from PIL import Image

from data_prep.job import Job
from data_prep.packing import pack
from dragonfly_lit.app.build import compose
from dragonfly_lit.app.sample_answers import SampleAnswers
from dragonfly_lit.app.train import fit
from dragonfly_lit.training.beside import Beside
from dragonfly_lit.training.checkpoint.locate import list_checkpoints

CASES = Path(__file__).resolve().parents[1] / "cases"
SMALL = [
    "stage=1", "name=run", "stage.steps=2", "data=mine", "data.batch.size=2", "data.num_workers=0",
    "callbacks.progress=false", "callbacks.checkpoints.every=1", "callbacks.answers.every=1",
    "callbacks.answers.count=2",
    "data.max_skip_rate=1.0", "data.max_skip_run=1000",
]  # fmt: skip


def jpeg(colour: str, keep: int | None = None) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "JPEG")
    return file.getvalue()[:keep]


def pair(question: str) -> list[dict]:
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    return [asked, {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}]


BAD = {
    "a truncated picture": (jpeg("red", 300), pair("Which colour?")),
    "a question longer than the context": (jpeg("red"), pair("Which colour? " * 5000)),
    "a lone question": (jpeg("red"), pair("Which colour?")[:1]),
    "a record that is not one": (jpeg("red"), {"role": "user"}),
}
GOOD = [(jpeg(colour), pair("Which colour?")) for colour in ("red", "green", "blue", "white")]


def write_shard(folder: Path, samples) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "mine-00000.tar", "w") as tar:
        for number, (image, turns) in enumerate(samples):
            record = json.dumps({"source": "mine", "licence": "x", "conversations": turns}).encode()
            for name, data in ((f"mine-{number}.json", record), (f"mine-{number}.0.jpg", image)):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return folder


def train(tmp_path: Path, *overrides: str) -> Path:
    fit(compose([*SMALL, f"runs_root={tmp_path / 'runs'}", f"data.path={tmp_path / 'data'}", *overrides]))
    return tmp_path / "runs/run"


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_first_sample_is_passed_over_by_the_sample_answers(kind, tmp_path):
    write_shard(tmp_path / "data", [BAD[kind], *GOOD])
    run = train(tmp_path)
    for step in (1, 2):
        lines = (run / f"answers/step-{step:08d}/answers.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == ["mine-1", "mine-2"]
        assert (run / f"answers/step-{step:08d}/mine-2.png").is_file()


def test_checkpoints_are_written_before_answers_are_asked_and_a_failure_is_said_once(
    tmp_path, monkeypatch, caplog, capsys
):
    seen: list[list[int]] = []

    def fails(_self, _model, folder: Path, _count: int) -> None:
        seen.append([info.step for _, info in list_checkpoints(folder.parents[1])])
        raise RuntimeError("no answers today")

    write_shard(tmp_path / "data", GOOD)
    monkeypatch.setattr(SampleAnswers, "__call__", fails)
    with caplog.at_level(logging.WARNING):
        run = train(tmp_path, "stage.steps=3")
    assert seen == [[1], [1, 2], [2, 3]]
    assert [info.step for _, info in list_checkpoints(run)] == [2, 3]
    said = [record.getMessage() for record in caplog.records if "no answers today" in record.getMessage()]
    assert said == ["callbacks.answers failed, and training goes on: RuntimeError: no answers today"]
    assert "Failed beside training: callbacks.answers 3 times" in capsys.readouterr().out


class Offline(Logger):
    """A logger whose network has gone."""

    name, version = "offline", 0

    def log_metrics(self, metrics, step=None):
        raise ConnectionError("the network is unreachable")

    def log_hyperparams(self, *args, **kwargs):
        raise ConnectionError("the network is unreachable")

    def finalize(self, status):
        raise ConnectionError("the network is unreachable")


def test_a_logger_that_loses_its_network_and_files_that_cannot_be_written_do_not_end_a_run(tmp_path, caplog, capsys):
    write_shard(tmp_path / "data", GOOD)
    (tmp_path / "a_file").touch()
    with caplog.at_level(logging.WARNING):
        run = train(
            tmp_path,
            "trainer.log_every=1",
            "+logger.offline._target_=test_training_beside.Offline",
            f"callbacks.sample_log={tmp_path / 'a_file' / 'log.jsonl'}",
        )
    assert [info.step for _, info in list_checkpoints(run)] == [1, 2]
    assert (run / "metrics.csv").read_text().count("\n") == 3  # the other logger has its header and both lines
    said = [record.getMessage() for record in caplog.records if "training goes on" in record.getMessage()]
    assert len(said) == 2
    assert "logger.offline failed, and training goes on: ConnectionError: the network is unreachable" in said
    out = capsys.readouterr().out
    assert "callbacks.sample_log 2 times" in out
    assert "logger.offline 4 times" in out  # the configuration, two steps, the end


def test_what_stops_a_program_is_not_caught():
    beside = Beside()
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), beside("a picture"):
            raise stop
    assert not beside.summary()


def test_a_source_without_a_single_good_sample_ends_the_run_whatever_its_limits_are(tmp_path):
    write_shard(tmp_path / "data", [BAD["a truncated picture"]] * 3)
    with pytest.raises(ValueError, match=r"source mine: 100 samples running were skipped, and it has 3; .*repair it"):
        train(tmp_path, "data.max_skip_run=1000000")


def test_what_is_found_when_the_data_are_opened_is_in_the_quarantine_of_this_run(tmp_path):
    folder = write_shard(tmp_path / "data", GOOD)
    shard = folder / "mine-00000.tar"
    data = bytearray(shard.read_bytes())
    data[:512] = bytes(512)  # the header of the first member
    shard.write_bytes(data)
    for earlier in range(2):
        run = train(tmp_path)
        assert len(list((tmp_path / "runs").iterdir())) == earlier + 1  # nothing moved aside but the earlier run
        (line,) = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines() if '"*"' in line]
        assert (line["source"], line["shard"]) == ("mine", "mine-00000.tar")


@pytest.mark.parametrize("case", ["01_one_bad.json", "16_long_question.json"])
def test_a_bad_row_of_a_llava_file_costs_itself_and_not_the_run(case, tmp_path):
    job = Job(
        form="llava", path=CASES / case, images=CASES / "imgs", out=tmp_path / "data", source="mine", licence="CC0"
    )
    pack(job, workers=1)
    run = train(tmp_path, "stage.steps=3")
    assert [info.step for _, info in list_checkpoints(run)] == [2, 3]
    assert all((run / f"answers/step-{step:08d}/answers.jsonl").read_text().count("\n") == 2 for step in (1, 2, 3))
