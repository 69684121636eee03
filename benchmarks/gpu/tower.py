"""The vision tower of v2 alone, and pixels on their way to it."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from benchmarks.gpu.recording import Report
from benchmarks.train_step import SIZES
from dragonfly_lit.models.flops import vision_flops_per_crop
from dragonfly_lit.models.tiny import tiny_config
from dragonfly_lit.models.vision import VisionTower


def tower(report: Report) -> None:
    """A frozen ViT-L/14 at 336 over the crops of four images: eager and compiled; copies from the host."""
    sizes: dict[str, Any] = copy.deepcopy(SIZES["cpu" if report.dry else "v2"])
    config = tiny_config(**sizes, feature_layer=-2)
    torch.set_default_dtype(report.half)
    with torch.device(report.device):
        vision = VisionTower(config)
    torch.set_default_dtype(torch.float32)
    vision.to(report.device).eval().requires_grad_(False)
    crops, side = 4 if report.dry else 41 * 4, config.vision_config.image_size
    host = torch.randint(0, 255, (crops, 3, side, side), dtype=torch.uint8)
    pixels = host.to(report.device)
    flops = vision_flops_per_crop(config) * crops

    def copies() -> dict[str, float]:
        found = {"mb": host.numel() / 1e6, "pageable_ms": report.ms(lambda: host.to(report.device), 5)}
        if report.device.type == "cuda":
            pinned = host.pin_memory()
            found["pinned_ms"] = report.ms(lambda: pinned.to(report.device, non_blocking=True), 5)
            started = time.perf_counter()
            host.pin_memory()
            found["pinning_host_ms"] = 1e3 * (time.perf_counter() - started)
        return {key: round(value, 2) for key, value in found.items()}

    def forward(*, compile: bool) -> dict[str, Any]:
        if compile and not report.dry:
            for block in vision.blocks:
                block.compile()
        with torch.no_grad():
            output = vision(pixels)
            took = report.ms(lambda: vision(pixels), 8)
        return {"ms": round(took, 2), "mfu": round(flops / took / 1e-3 / report.peak, 3), "output": str(output.dtype)}

    report.attempt("copies", copies)
    report.attempt("frozen", forward, compile=False)
    report.attempt("frozen_compiled", forward, compile=True)
