import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from limits import patient

from dragonfly_lit.evaluation import answers as store

SCRIPT = """
import sys, time
from dataclasses import replace
from pathlib import Path
from dragonfly_lit.io.later import SELDOM_USED, loaded_at_first_use

with loaded_at_first_use(*SELDOM_USED):
    from dragonfly_lit.evaluation import answers
    from dragonfly_lit.evaluation.runner import Settings, run
    from dragonfly_lit.evaluation.benchmarks.easy_vqa import EasyVQA
    from dragonfly_lit.evaluation.metrics.choice import MultipleChoice
    from dragonfly_lit.evaluation.perturb import Perturbation
    from dragonfly_lit.evaluation.prompts import PromptBook, Template
    from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
    from dragonfly_lit.processing.processor import DragonflyImageProcessor, DragonflyProcessor

class Choices(EasyVQA):
    metric_type = MultipleChoice

    def read(self, folder):
        for question in super().read(folder):
            yield replace(question, choices=("yes", "no", "blue"), references=("A",))

WAYS = {
    "plain": (lambda: EasyVQA(limit=61, max_new_tokens=2), dict(batch_tokens=1200)),
    "drawn": (
        lambda: EasyVQA(limit=13, max_new_tokens=2),
        dict(
            draws=2, temperature=0.7, shots=1, perturb=Perturbation(kind="jpeg", strength=20), batch_tokens=2400
        ),
    ),
    "rotated": (lambda: Choices(limit=13, circular=True), dict(scoring="loglikelihood", batch_tokens=2400)),
}
pause, real = float(sys.argv[2]), answers.append

def append(path, lines):
    real(path, lines)
    time.sleep(pause)

answers.append = append
for way in sys.argv[3:]:
    benchmark, settings = WAYS[way]
    model = tiny_model(seed=3)
    run(
        [benchmark()], model=model, out=Path(sys.argv[1]) / way,
        processor=DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer()),
        settings=Settings(
            prompts=PromptBook(name="plain", default=Template(text="{question}"), templates={}),
            resamples=20, gallery=8, **settings,
        ),
    )
"""
NUM_ANSWERS = {"plain": 61, "drawn": 26, "rotated": 39}
"""Lines of each way: of one draw, of two, and of three rotations of each question."""


def start(folder: Path, out: Path, ranks: int, ways: Sequence[str], pause: float = 0.0) -> subprocess.Popen:
    script = folder / "evaluation.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), str(out), str(pause), *ways],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=patient(240))
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
    """What one rank gives, by way."""
    folder, threads = tmp_path_factory.mktemp("one"), torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluation.py", str(folder / "out"), "0", *NUM_ANSWERS])
        patch.setattr(store, "append", store.append)  # put back what the script replaces
        exec(compile(SCRIPT, "evaluation.py", "exec"), {"__name__": "__main__"})
    torch.set_num_threads(threads)
    return {way: kept(folder / "out" / way) for way in NUM_ANSWERS}


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory):
    """What three ranks give, by way: one start of them for all."""
    folder = tmp_path_factory.mktemp("three")
    finish(start(folder, folder / "out", 3, list(NUM_ANSWERS)))
    return {way: kept(folder / "out" / way) for way in NUM_ANSWERS}


@pytest.mark.parametrize("way", NUM_ANSWERS)
def test_three_ranks_give_the_files_of_one_whichever_way_is_asked(one_rank, three_ranks, way):
    assert three_ranks[way] == one_rank[way]
    assert len(one_rank[way]["answers"].splitlines()) == NUM_ANSWERS[way]


@pytest.mark.slow
@pytest.mark.parametrize("ranks_after", [1, 3])
def test_three_killed_ranks_go_on_as_one_or_three(tmp_path, one_rank, ranks_after):
    out = tmp_path / "out/plain"
    process = start(tmp_path, tmp_path / "out", 3, ["plain"], pause=1.0)
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
    finish(start(tmp_path, tmp_path / "out", ranks_after, ["plain"]))
    assert kept(out) == one_rank["plain"]
    times = json.loads((out / "results.json").read_text())["times"]
    assert times["benchmarks"]["easy_vqa"]["asked"] == 61 - num_written


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
