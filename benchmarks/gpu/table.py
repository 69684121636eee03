"""The report as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

TRAINING = ("v1", "v1_more", "v2", "stage2", "stage2_more")


def tables(report: dict[str, Any]) -> str:
    """Markdown of a report: the machine, the training steps, the runs of train.py, generation, what failed."""
    parts = [
        _machine(report.get("machine", {})),
        _training(report),
        _kernels(report),
        _runs(report),
        _generation(report),
    ]
    if failed := failures(report):
        parts.append(f"Not run through: {', '.join(failed)}.")
    if steps := report.get("steps"):
        parts.append(_table(("step", "how it ended"), steps.items()))
    return "\n\n".join(part for part in parts if part) + "\n"


def failures(report: dict[str, Any]) -> list[str]:
    """What did not run through: measurements with an error, runs and steps that ended badly."""
    found = [name for name, ended in report.get("steps", {}).items() if not ended.startswith("status 0")]
    for step, entries in report.items():
        for key, value in entries.items() if step != "steps" else ():
            if key == "failed" and value:
                found += [f"{step} {name}" for name in value]
            elif isinstance(value, dict) and ("error" in value or value.get("status", 0) != 0):
                found.append(f"{step} {key}")
    return found


def _machine(found: dict[str, Any]) -> str:
    versions = found.get("versions", {})
    packages = ", ".join(f"{name} {version}" for name, version in versions.get("versions", {}).items())
    ceilings = ", ".join(f"{key} {value}" for key, value in found.get("ceilings", {}).items() if key != "wall_s")
    lines = [f"{versions.get('gpu', 'CPU')}, Python {versions.get('python')}: {packages}."] if versions else []
    return "\n".join([*lines, f"Ceilings: {ceilings}."] if ceilings else lines)


def _training(report: dict[str, Any]) -> str:
    rows = []
    for step in TRAINING:
        for key, value in report.get(step, {}).items():
            if "error" in value:
                rows.append((f"{step} {key}", value["error"][:120], "", "", "", "", ""))
                continue
            profile = value.get("profile", {})
            kinds = ", ".join(f"{kind} {seconds:.3f}" for kind, seconds in profile.get("by_kind_s", {}).items())
            waits = value.get("waits", {}).get("total", "")
            name = f"{step} {key}".replace("_", " ")
            share = f"{value['mfu']:.1%}"
            rows.append((name, value["s_a_step"], value["tokens_s"], share, value.get("gb", ""), waits, kinds))
    head = ("way to train", "s a step", "tokens/s", "MFU", "GB", "host waits", "seconds of kernels")
    return _table(head, rows) if rows else ""


def _kernels(report: dict[str, Any]) -> str:
    rows = []
    for key, value in report.get("kernels", {}).items():
        for way, found in value.items() if key.startswith("time") and "error" not in value else ():
            if isinstance(found, dict):
                ms, speed = (f"{found[f'forward_{unit}']} / {found[f'both_{unit}']}" for unit in ("ms", "tflops"))
                rows.append((key.removeprefix("time_").replace("_", " "), way, ms, speed))
    return _table(("attention", "way", "ms, forward / with backward", "TFLOP/s"), rows) if rows else ""


def _runs(report: dict[str, Any]) -> str:
    rows = []
    for step in ("parity", "pipeline"):
        for key, value in report.get(step, {}).items():
            if isinstance(value, dict) and "losses" in value:
                rest = ", ".join(f"{k} {v:.2g}" for k, v in value.items() if k not in ("losses", "steps"))
                rows.append((f"{step} {key}", value["steps"], value["losses"][-1:], rest))
    return _table(("run of train.py", "steps", "last loss", "beside"), rows) if rows else ""


def _generation(report: dict[str, Any]) -> str:
    found = [value for value in report.get("generation", {}).values() if isinstance(value, dict) and "end" in value]
    return "```\n" + "\n".join(found[0]["end"]) + "\n```" if found else ""


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)
