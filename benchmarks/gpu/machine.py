"""The machine: versions, and the ceilings that everything else is held against."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
from contextlib import suppress

import torch

from benchmarks.gpu.recording import Report

PACKAGES = (
    "torch", "triton", "transformers", "lightning", "hydra-core", "omegaconf", "webdataset", "torchao", "liger-kernel",
    "flash-attn", "numpy", "pillow", "safetensors",
)  # fmt: skip


def machine(report: Report) -> None:
    """Versions of the software, names of the hardware, speed of a large matmul and of copies."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    found = {"python": platform.python_version(), "cpus": os.cpu_count(), "versions": versions}
    if report.device.type == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": gpu.name,
            "memory_gb": round(gpu.total_memory / 1e9, 1),
            "capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
            "peak": report.peak,
        }
    report.record("versions", found)
    report.attempt("ceilings", _ceilings, report)


def _ceilings(report: Report) -> dict[str, float]:
    side = 256 if report.dry else 8192
    a, b = (torch.randn(side, side, device=report.device, dtype=report.half) for _ in range(2))
    product = report.ms(lambda: a @ b)
    size = 2**20 if report.dry else 2**32
    source = torch.empty(size, dtype=torch.uint8, device=report.device)
    target = torch.empty_like(source)
    copy = report.ms(lambda: target.copy_(source))
    found = {"matmul_tflops": 2 * side**3 / product / 1e9, "copy_tb_s": 2 * size / copy / 1e9}
    host = torch.randint(0, 255, (size // 16,), dtype=torch.uint8)
    found["from_pageable_gb_s"] = host.numel() / report.ms(lambda: host.to(report.device), 5) / 1e6
    if report.device.type == "cuda":
        pinned = host.pin_memory()
        moved = report.ms(lambda: pinned.to(report.device, non_blocking=True), 5)
        found["from_pinned_gb_s"] = host.numel() / moved / 1e6
    return {key: round(value, 2) for key, value in found.items()}
