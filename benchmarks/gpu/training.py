"""Training steps of real sizes by the project's own Trainer, module and strategies, on random weights."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.gpu.recording import Report
from benchmarks.train_step import SIZES, samples, stage_of
from dragonfly_lit.models.attention import choose_attention
from dragonfly_lit.models.dragonfly import DragonflyForConditionalGeneration
from dragonfly_lit.models.flops import Trained, Work, step_flops
from dragonfly_lit.models.tiny import tiny_config, tiny_tokenizer
from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Batch
from dragonfly_lit.training.module import TrainingModule
from dragonfly_lit.training.strategies import Fsdp, Single
from dragonfly_lit.training.telemetry import count

KINDS = {
    "attention": ("flash", "fmha", "attention"),
    "matmul": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "sm90"),
    "copy and cast": ("memcpy", "copy", "memset", "cast"),
    "collective": ("nccl",),
    "optimizer": ("adam", "multi_tensor"),
    "triton": ("triton",),
}
"""What a kernel does, by words of its name; the first that fits."""


def batches(model_config: Any, *, number: int, per_batch: int, longest: int) -> list[Batch]:
    """Packed batches of ragged answers about one image of noise."""
    tokenizer = tiny_tokenizer()
    builder = SequenceBuilder(tokenizer=tokenizer, layout=model_config.layout, max_tokens=8192)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8))
    made = [dataclasses.replace(s, images=(noise,)) for s in samples(per_batch * number, longest)]
    rows = [pack([builder.build(s) for s in made[i * per_batch : (i + 1) * per_batch]]) for i in range(number)]
    return [collate([row], pad_id=tokenizer.pad_token_id) for row in rows]


class Measure(pl.Callback):
    """Warms up, measures some steps on the clock, then one step's host waits and one step's kernels."""

    def __init__(self, report: Report, title: str, *, warm: int, steps: int, look: bool) -> None:
        self.report, self.title, self.warm, self.steps = report, title, warm, steps
        self.waits_at, self.profile_at = (warm + steps, warm + steps + 1) if look else (-1, -1)
        self.total = warm + steps + 2 * look
        self.found: dict[str, Any] = {"seconds_of_first_steps": [], "losses": []}
        self._profile: Any = None
        self._flops = self._tokens = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx <= self.warm or batch_idx >= self.waits_at > 0:
            self.report.wait()
        if batch_idx == self.warm and self.report.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        if batch_idx <= self.warm:
            self._since = time.perf_counter()
        self._begun = time.perf_counter()
        if self.report.device.type != "cuda":
            return
        if batch_idx == self.waits_at:
            self._caught = warnings.catch_warnings(record=True)
            self._waits = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if batch_idx == self.profile_at:
            from torch.profiler import ProfilerActivity, profile

            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == self.waits_at and self.report.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            self.found["waits"] = self._places()
        if batch_idx == self.profile_at and self._profile is not None:
            self.report.wait()
            self._profile.__exit__(None, None, None)
            self.found["profile"] = self._kernels()
        if batch_idx < self.warm:
            self.report.wait()
            self.found["seconds_of_first_steps"].append(round(time.perf_counter() - self._since, 2))
            sums = outputs["step_loss"]
            self.found["losses"].append(round(float(sums.loss / sums.weight), 4))
            self._work(pl_module, batch, outputs)
        elif batch_idx < self.warm + self.steps:
            self._flops += self._work(pl_module, batch, outputs)
            self._tokens += batch.input_ids.numel()
            if batch_idx == self.warm + self.steps - 1:
                self._conclude()

    def _work(self, module: Any, batch: Batch, outputs: Any) -> float:
        # Counted while it warms up: asking the device would make the clock wait for it.
        images = 0 if batch.pixel_values is None else len(batch.pixel_values)
        key = (batch.keys, batch.input_ids.shape)
        if key not in self._counts:
            _, _, tokens, _, pairs, supervised = count(batch, outputs["step_loss"]).tolist()
            work = Work(images=images, tokens=tokens, pairs=pairs, supervised=supervised)
            everything = module.stage.name == "2"
            trained = Trained(vision=everything, projector=True, language=everything)
            self._counts[key] = sum(step_flops(module.model.config, work, trained).values())
        return self._counts[key]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._counts: dict[Any, float] = {}

    def _conclude(self) -> None:
        self.report.wait()
        seconds = (time.perf_counter() - self._since) / self.steps
        peak = self.report.peak
        self.found |= {
            "s_a_step": round(seconds, 4),
            "tokens_a_step": round(self._tokens / self.steps),
            "tokens_s": round(self._tokens / self.steps / seconds),
            "tflops": round(self._flops / self.steps / seconds / 1e12, 1),
            "mfu": round(self._flops / self.steps / seconds / peak, 4),
        }
        if self.report.device.type == "cuda":
            self.found["gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)

    def _places(self) -> dict[str, Any]:
        told = ((*Path(w.filename).parts[-2:], w.lineno) for w in self._waits if "synchroniz" in str(w.message))
        places = Counter("{}/{}:{}".format(*where) for where in told)
        return {"total": sum(places.values()), "places": dict(places.most_common(20))}

    def _kernels(self) -> dict[str, Any]:
        times: Counter[str] = Counter()
        calls: Counter[str] = Counter()
        for event in self._profile.events():
            named = event.is_user_annotation or event.name.startswith(("Optimizer.", "FSDP::"))  # spans, not kernels
            if event.device_type == torch.autograd.DeviceType.CUDA and not named:
                times[event.name] += event.time_range.elapsed_us()
                calls[event.name] += 1
        kinds: Counter[str] = Counter()
        for name, us in times.items():
            low = name.lower()
            kinds[next((kind for kind, words in KINDS.items() if any(w in low for w in words)), "elementwise")] += us
        busy = sum(times.values()) / 1e6
        with (self.report.folder / "profiles.txt").open("a") as file:
            file.write(f"\n##### {self.title}: {busy:.4f} s of kernels, {sum(calls.values())} launches\n")
            for name, us in times.most_common(40):
                file.write(f"{us / 1e3:10.3f} ms {calls[name]:6d}x {name[:150]}\n")
        by_kind = {kind: round(us / 1e6, 4) for kind, us in kinds.most_common()}
        return {"s_of_kernels": round(busy, 4), "launches": sum(calls.values()), "by_kind_s": by_kind}


def train(
    report: Report,
    title: str,
    *,
    size: str,
    stage: str,
    per_batch: int = 8,
    longest: int = 400,
    number: int = 3,
    layers: int | None = None,
    precision: str = "bf16",
    compile: str = "auto",
    fsdp: bool = False,
    checkpointing: Any = "none",
    steps: int = 8,
    look: bool = True,
    **strategy: Any,
) -> dict[str, Any]:
    """Everything about one way to train: seconds a step, MFU, memory, host waits, kernels by kind.

    Args:
        report: of the step.
        title: heads its kernels in `profiles.txt`.
        size: a key of `benchmarks.train_step.SIZES`.
        stage: "1" (the projector trains) or "2" (everything does).
        per_batch: samples packed into a row.
        longest: bytes of the longest answer.
        number: different batches, taken in turns.
        layers: of the language model, where fewer than its own.
        precision: of `trainer.precision`.
        compile: of `trainer.compile`.
        fsdp: shard over one rank, as FSDP2 does over many.
        checkpointing: of `strategy.activation_checkpointing`.
        steps: on the clock.
        look: whether host waits and kernels are looked at as well.
        strategy: more of the strategy's arguments.
    """
    if report.dry:
        size, per_batch, number, steps, precision, compile, layers = "cpu", 2, 2, 2, "fp32", "off", layers and 2
    sizes: dict[str, Any] = copy.deepcopy(SIZES[size])
    if layers:
        sizes["text"]["num_hidden_layers"] = layers
    config = tiny_config(**sizes, feature_layer=-2)
    made = batches(config, number=number, per_batch=per_batch, longest=longest)

    def draw() -> Any:
        torch.set_default_dtype(report.half)
        try:
            with torch.device(report.device):  # 8e9 weights are drawn in seconds there, and in minutes on a CPU
                model = DragonflyForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(torch.float32)
        model.language.set_attn_implementation(choose_attention("packed_varlen", report.device, report.half)[0])
        return model

    warm = max(3, number)
    measure = Measure(report, title, warm=warm, steps=steps, look=look)
    plan = stage_of(stage, steps=measure.total)
    module = TrainingModule(draw, plan, precision=precision, compile=compile)
    options = {"activation_checkpointing": checkpointing, **strategy}
    device = "cpu" if report.dry else "gpu"
    chosen = Fsdp(**options) if fsdp else Single(device, **options)
    turns = [made[i % number] for i in range(measure.total)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            strategy=chosen,
            accelerator=device,
            devices=1,
            precision="32-true",
            max_steps=plan.steps,
            max_epochs=-1,
            callbacks=[measure],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(module, DataLoader(turns, batch_size=None, pin_memory=not report.dry))
    return measure.found


def v1(report: Report) -> None:
    """Stage 1 of the released v1 (CLIP ViT-B/32 and a Llama of 8e9 weights)."""
    _each(report, "v1", "1", {"stage1": {}})


def v1_more(report: Report) -> None:
    """Stage 1 of v1 without compiling, and with matmuls in FP8."""
    ways: dict[str, Any] = {"stage1_eager": {"compile": "off"}, "stage1_fp8": {"precision": "fp8", "number": 2}}
    _each(report, "v1", "1", ways)


def v2(report: Report) -> None:
    """Stage 1 of the released v2 (CLIP ViT-L/14 at 336 and a Llama of 8e9 weights)."""
    _each(report, "v2", "1", {"stage1": {"number": 2, "steps": 4}})


def stage2(report: Report) -> None:
    """Stage 2: a language model of 1e9 weights whole, and a quarter of one of 8e9, sharded over one rank."""
    _each(report, "1b", "2", {"1b": {}})
    _each(report, "v1", "2", {"8b_quarter_fsdp": {"layers": 8, "fsdp": True}})


def stage2_more(report: Report) -> None:
    """Stage 2 with activations computed again, sharded, and without compiling."""
    short = {"layers": 8, "fsdp": True, "look": False, "number": 2, "steps": 4}
    modes = {f"8b_quarter_fsdp_{mode}": short | {"checkpointing": mode} for mode in ("selective", "full")}
    _each(report, "v1", "2", modes)
    _each(report, "1b", "2", {"1b_fsdp": {"fsdp": True}, "1b_eager": {"compile": "off"}})


def _each(report: Report, size: str, stage: str, ways: dict[str, dict[str, Any]]) -> None:
    for name, options in ways.items():
        title = f"{size} {name.replace('_', ' ')}"
        report.attempt(name, train, report, title, size=size, stage=stage, **options)
