import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from limits import patient

from dragonfly_lit.evaluation import answers as store

SCRIPT = """
import sys, time
from pathlib import Path
from dragonfly_lit.evaluation import answers
from dragonfly_lit.evaluation.runner import Settings, run
from dragonfly_lit.evaluation.benchmarks.easy_vqa import EasyVQA
from dragonfly_lit.evaluation.prompts import PromptBook, Template
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor

pause, real = float(sys.argv[2]), answers.append

def append(path, lines):
    real(path, lines)
    time.sleep(pause)

answers.append = append
model = tiny_model(seed=3)
run(
    [EasyVQA(limit=61, max_new_tokens=2)], model=model, out=Path(sys.argv[1]),
    processor=DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer()),
    settings=Settings(
        prompts=PromptBook(name="plain", default=Template(text="{question}"), templates={}),
        batch_tokens=1200, resamples=20, gallery=8,
    ),
)
"""


def start(folder: Path, out: Path, ranks: int, pause: float = 0.0) -> subprocess.Popen:
    script = folder / "evaluation.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), str(out), str(pause)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=patient(120))
    assert process.returncode == 0, said.decode()


def kept(out: Path) -> dict[str, str | dict]:
    results = json.loads((out / "results.json").read_text())
    assert results.pop("times")["ranks"] in (1, 3)
    assert sorted(path.name for path in (out / "answers").iterdir()) == ["easy_vqa.jsonl"]
    return {
        "results": json.dumps(results),
        "answers": (out / "answers/easy_vqa.jsonl").read_text(),
        "table": (out / "results.md").read_text(),
    }


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluation.py", str(folder / "out"), "0"])
        patch.setattr(store, "append", store.append)  # put back what the script replaces
        exec(compile(SCRIPT, "evaluation.py", "exec"), {"__name__": "__main__"})
    torch.set_num_threads(threads)
    return kept(folder / "out")


def test_three_ranks_give_the_files_of_one(tmp_path, one_rank):
    finish(start(tmp_path, tmp_path / "out", 3))
    assert kept(tmp_path / "out") == one_rank


OTHER_WAYS = {
    "drawn, with an example, of worse images": (
        "[EasyVQA(limit=13, max_new_tokens=2)]",
        'draws=2, temperature=0.7, shots=1, perturb=Perturbation(kind="jpeg", strength=20), batch_tokens=2400',
    ),
    "every rotation, by likelihood": (
        "[Choices(limit=13, circular=True)]",
        'scoring="loglikelihood", batch_tokens=2400',
    ),
}
CHOICES = """
from dataclasses import replace
from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
from dragonfly_lit.evaluation.perturb import Perturbation

class Choices(EasyVQA):
    metric_type = MultipleChoice

    def read(self, folder):
        for question in super().read(folder):
            yield replace(question, choices=("yes", "no", "blue"), references=("A",))

"""


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_three_ranks_give_the_files_of_one_whichever_way_is_asked(tmp_path, monkeypatch, way):
    benchmarks, settings = OTHER_WAYS[way]
    script = SCRIPT.replace("\npause, real", CHOICES + "\npause, real")
    script = script.replace("[EasyVQA(limit=61, max_new_tokens=2)]", benchmarks)
    monkeypatch.setattr(sys.modules[__name__], "SCRIPT", script.replace("batch_tokens=1200", settings))
    for ranks in (1, 3):
        finish(start(tmp_path, tmp_path / f"out{ranks}", ranks))
    assert kept(tmp_path / "out1") == kept(tmp_path / "out3")
    lines = (tmp_path / "out1/answers/easy_vqa.jsonl").read_text().splitlines()
    assert len(lines) in (26, 39), "two draws, or three rotations of each question"


@pytest.mark.slow
@pytest.mark.parametrize("ranks_after", [1, 3])
def test_three_killed_ranks_go_on_as_one_or_three(tmp_path, one_rank, ranks_after):
    out = tmp_path / "out"
    process = start(tmp_path, out, 3, pause=1.0)
    deadline = time.monotonic() + patient(120)
    while not list(out.glob("answers/*.rank*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in (*children_of(process.pid), process.pid):  # each rank leads a session of its own
        os.kill(pid, signal.SIGKILL)
    process.wait()
    written = {file: file.read_bytes() for file in out.glob("answers/*.jsonl")}
    num_written = sum(text.count(b"\n") for text in written.values())
    assert 0 < num_written < 61
    assert not (out / "results.json").exists()
    finish(start(tmp_path, out, ranks_after))
    assert kept(out) == one_rank
    times = json.loads((out / "results.json").read_text())["times"]
    assert times["benchmarks"]["easy_vqa"]["asked"] == 61 - num_written


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
