"""What a step of the check measures goes into one report at once, failures too: the next measurement always runs."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Report:
    """The JSON report of one step, written after every measurement.

    Args:
        folder: where `report.json` and `profiles.txt` lie.
        step: the name of the step.
        dry: tiny sizes on the CPU.
    """

    def __init__(self, folder: Path, step: str, *, dry: bool) -> None:
        self.folder, self.step, self.dry = folder, step, dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.half = torch.float32 if dry else torch.bfloat16  # a CPU is slow in bfloat16
        if dry:
            torch.set_num_threads(1)

    def record(self, key: str, value: Any) -> None:
        """Puts one finding into the report and on the screen."""
        path = self.folder / "report.json"
        found = json.loads(path.read_text()) if path.is_file() else {}
        found.setdefault(self.step, {})[key] = value
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1, default=str))
        os.replace(partial, path)
        print(f"{self.step}/{key}: {json.dumps(value, default=str)}", flush=True)

    def attempt(self, key: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Records what `function` gives, or how it failed, and frees what it left behind."""
        started = time.perf_counter()
        try:
            value = function(*arguments, **options)
            if isinstance(value, dict):
                value["wall_s"] = round(time.perf_counter() - started, 1)
            self.record(key, value)
        except Exception as error:  # whatever happens, the next measurement must run
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
            text = " ".join(str(error).split())[:600]
            self.record(key, {"error": f"{type(error).__name__}: {text}", "where": where})
            sys.last_exc = None  # it would keep the frames, and with them the tensors
            del error
        self.free()

    def free(self) -> None:
        """Gives the device's memory back, compiled code and what it holds with it, and counts its peak afresh."""
        torch._dynamo.reset()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ms(self, function: Callable[[], Any], repeats: int = 20, warm: int = 3) -> float:
        """Median milliseconds of one call, on the device's clock."""
        repeats, warm = (2, 1) if self.dry else (repeats, warm)
        for _ in range(warm):
            function()
        self.wait()
        found = []
        for _ in range(repeats):
            if self.device.type == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                function()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end))
            else:
                begun = time.perf_counter()
                function()
                found.append(1e3 * (time.perf_counter() - begun))
        return statistics.median(found)

    @property
    def peak(self) -> float:
        """Dense bfloat16 FLOP/s of the GPU by its data sheet; an H100's on a CPU, so that the formula runs."""
        from dragonfly_lit.models.flops import peak_flops

        name = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        return peak_flops(name) or 989e12
