"""Runs of train.py itself: CPU and GPU beside each other, resume, shards, real loading; what their logs say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.recording import Report
from dragonfly_lit.io.metrics import METRICS_FILE, read_metrics
from dragonfly_lit.models.backbones import builtin_folder

WAITS = """
import runpy, sys, warnings, torch
warnings.simplefilter("always")
torch.cuda.init()
torch.cuda.set_sync_debug_mode(1)
sys.argv = ["train.py"] + sys.argv[1:]
runpy.run_path("train.py", run_name="__main__")
"""
"""A run in which torch says where the host waits for the device."""


class Runs:
    """Runs of train.py in one folder, their output in files.

    Args:
        folder: for data, runs and logs.
        threads: of each run.
    """

    def __init__(self, folder: Path, threads: int = 2) -> None:
        self.folder = folder
        self._environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}

    def start(self, name: str, *arguments: str, waits: bool = False) -> subprocess.Popen[bytes]:
        """Starts a run; its output goes to `log-NAME.txt`."""
        begin = [sys.executable, "-c", WAITS] if waits else [sys.executable, "train.py"]
        common = (f"name={name}", f"runs_root={self.folder / 'runs'}", f"data_root={self.folder / 'data'}")
        quiet = ("trainer.log_every=1", "callbacks.progress=false", "data.num_workers=2", "callbacks.answers=null")
        environment = self._environment | ({"PYTHONWARNINGS": "always"} if waits else {})
        with (self.folder / f"log-{name}.txt").open("wb") as log:
            return subprocess.Popen(
                [*begin, *common, *quiet, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def end(self, started: dict[str, subprocess.Popen[bytes]], limit: float) -> dict[str, Any]:
        """Waits for runs, at most `limit` seconds for all; the last lines of those that failed."""
        until, failed = time.monotonic() + limit, {}
        for name, process in started.items():
            try:
                status: int | str = process.wait(max(1.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                status = f"stopped after {limit:.0f} s"
            if status != 0:
                text = (self.folder / f"log-{name}.txt").read_text(errors="replace")
                failed[name] = {"status": status, "end": [line for line in text.splitlines() if line.strip()][-8:]}
        return failed

    def rows(self, name: str) -> list[dict[str, float]]:
        """What a run logged, a row a step."""
        path = self.folder / "runs" / name / METRICS_FILE
        return read_metrics(path) if path.is_file() else []

    def compare(self, name: str, beside: str | None = None) -> dict[str, Any]:
        """Losses of a run, how far they are from those of another, and its speed."""
        mine, base = ({int(r["step"]): r["loss"] for r in self.rows(n) if "loss" in r} for n in (name, beside or name))
        found: dict[str, Any] = {"steps": len(mine), "losses": [round(mine[step], 5) for step in sorted(mine)][-3:]}
        both = sorted(set(mine) & set(base))
        if beside and both:
            found["largest difference from " + beside] = max(abs(mine[step] - base[step]) for step in both)
        last = [row for row in self.rows(name) if "samples_per_s" in row][-1:]
        for key in ("mfu", "data_wait", "samples_per_s", "tokens_per_s", "memory_gb"):
            if last and key in last[0]:
                found[key] = round(last[0][key], 4)
        return found

    def waits(self, name: str) -> dict[str, int]:
        """Places where the host waited, with how often."""
        lines = (self.folder / f"log-{name}.txt").read_text(errors="replace").splitlines()
        told = (line for line in lines if "called a synchronizing CUDA operation" in line)
        places = Counter(line.split(": ")[0].split("/")[-1] for line in told)
        return dict(places.most_common(25))


def parity(report: Report) -> None:
    """The tiny model from one seed on CPU and GPU, one process and FSDP2, packed and compiled, and resumed."""
    steps, half, patience = (4, "fp32", 10) if report.dry else (12, "bf16", 1)
    device = "cpu" if report.dry else "gpu"
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        _run(report, [sys.executable, "-m", "dragonfly_lit.data_prep", "demo", "--root", f"{folder}/data"])
        short = (f"stage.steps={steps}", "trainer.val_every=null", f"callbacks.checkpoints.every={steps // 2}")
        first, second = ("stage=1", *short), ("stage=2", "init_from=null", *short)
        on = (f"trainer={device}", f"trainer.precision={half}")
        plans: dict[str, tuple[str, ...]] = {
            "cpu-s1": (*first, "trainer=cpu"),
            "fp32-s1": (*first, f"trainer={device}", "trainer.precision=fp32"),
            "half-s1": (*first, *on),
            "half-s2": (*second, *on),
            "fsdp-s2": (*second, *on, "strategy=fsdp", "callbacks.checkpoints.background=true"),
        }
        if report.dry:
            plans = {name: plans[name] for name in ("cpu-s1", "half-s2")}
        failed = runs.end({name: runs.start(name, *plan) for name, plan in plans.items()}, 120 * patience)
        shutil.copytree(runs.folder / "runs" / "half-s2", runs.folder / "runs" / "again-s2", dirs_exist_ok=True)
        for last in (runs.folder / "runs" / "again-s2" / "checkpoints").glob(f"step-*{steps}"):
            shutil.rmtree(last)  # the run goes on from the checkpoint in its middle
        started = {"again-s2": runs.start("again-s2", *second, *on, "resume=auto")}
        if not report.dry:
            packed = ("data.batch.mode=packed", "data.batch.max_tokens=4096")
            started["waits-s1"] = runs.start("waits-s1", *first, *on, *packed, waits=True)
            started["eager-s1"] = runs.start("eager-s1", *first, *on, "trainer.compile=off")
        failed |= runs.end(started, 90 * patience)
        for name in ("cpu-s1", "waits-s1"):
            if name in plans or name in started:
                report.record(name, runs.compare(name))
        for name, beside in (
            ("fp32-s1", "cpu-s1"),
            ("half-s1", "cpu-s1"),
            ("eager-s1", "half-s1"),
            ("half-s2", "cpu-s1"),
            ("fsdp-s2", "half-s2"),
            ("again-s2", "half-s2"),
        ):
            if name in plans or name in started:
                report.record(name, runs.compare(name, beside))
        if "waits-s1" in started:
            report.record("waits of the host", runs.waits("waits-s1"))
        report.record("failed", failed)


def pipeline(report: Report) -> None:
    """train.py with real loading: photographs in shards, packed rows, a frozen language model of 1e9 weights."""
    steps = 4 if report.dry else 40
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        report.attempt("material", _material, report, where)
        tokenizer = builtin_folder("tokenizer")
        runs = Runs(where)
        started = runs.start(
            "pipeline",
            "stage=1",
            "model=dragonfly_v1",
            f"vision.path={where / 'vision'}",
            f"language.path={where / 'language'}",
            f"language.tokenizer={tokenizer}",
            "data=mine",
            f"data.path={where / 'shards'}",
            "data.batch.mode=packed",
            f"data.batch.max_tokens={2048 if report.dry else 8192}",
            "data.batch.max_crops=256",
            "init_from=null",
            f"trainer={'cpu' if report.dry else 'gpu'}",
            "trainer.val_every=null",
            f"stage.steps={steps}",
            f"trainer.log_every={steps // 2}",
            f"data.num_workers={1 if report.dry else 12}",
            "callbacks.checkpoints.trainable_only=true",
        )
        failed = runs.end({"pipeline": started}, 750 if report.dry else 75)
        report.record("train.py", runs.compare("pipeline"))
        report.record("failed", failed)


def _material(report: Report, folder: Path) -> dict[str, float]:
    """Folders of a random tower and language model, and shards of made photographs."""
    import io

    import numpy as np
    import torch
    from dragonfly_lit.data_prep.shards import write_shard
    from PIL import Image
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from benchmarks.train_step import SIZES
    from dragonfly_lit.data.index import index_folder
    from dragonfly_lit.spec.records import Record, Turn

    sizes: dict[str, Any] = SIZES["cpu" if report.dry else "1b"]
    text = {"max_position_embeddings": 8192, **sizes["text"]}
    vision = {"image_size": 32, "patch_size": 8, **sizes["vision"]}
    torch.set_default_dtype(report.half)
    with torch.device(report.device):
        LlamaForCausalLM(LlamaConfig(**text)).cpu().save_pretrained(folder / "language")
        CLIPVisionModel(CLIPVisionConfig(**vision)).cpu().save_pretrained(folder / "vision")
    torch.set_default_dtype(torch.float32)
    draw = np.random.default_rng(0)

    def photograph(number: int) -> bytes:
        width, height = [(640, 480), (1024, 768), (480, 640), (1200, 900)][number % 4]
        coarse = Image.fromarray(draw.integers(0, 255, (height // 8, width // 8, 3), np.uint8))
        buffer = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    photographs = [photograph(number) for number in range(8 if report.dry else 64)]
    shards = folder / "shards"
    shards.mkdir()
    each = 24 if report.dry else 400
    for shard in range(4):
        records = []
        for number in range(shard * each, (shard + 1) * each):
            words = "word " * int(4 + 40 * draw.random() ** 2)
            turns = (Turn(role="user", text="what?", num_images=1), Turn(role="assistant", text=words))
            picture = photographs[number % len(photographs)]
            records.append(Record(key=f"s{number:06d}", source="mine", licence="none", turns=turns, images=(picture,)))
        write_shard(shards / f"mine-{shard:05d}.tar", records)
    index_folder(shards, licence="none")
    return {"samples": 4 * each, "mb": round(sum(f.stat().st_size for f in shards.iterdir()) / 1e6, 1)}


def tests(report: Report) -> None:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/unit"]
    if report.dry:
        command += ["--collect-only"]
    _run(report, command)


def generation(report: Report) -> None:
    """benchmarks/generate.py: tokens a second, with and without a static cache and graphs."""
    tiny = ["--size", "tiny", "--rows", "1", "--questions", "2", "--new-tokens", "6"]
    size = tiny if report.dry else ["--device", "cuda", "--size", "v1", "--ways", "static"]
    target = report.folder / "generate.json"
    _run(report, [sys.executable, "benchmarks/generate.py", *size, "--json", str(target)])


def _run(report: Report, command: Sequence[str]) -> None:
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    found = {"status": done.returncode, "end": lines[-12:], "wall_s": round(time.perf_counter() - started, 1)}
    report.record(" ".join(part for part in command[1:4] if not part.startswith("/")), found)
