"""The command: tokenizer, tower, language model, and the card that says how they were made, into one folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedModel

from tools.tiny_backbones.card import write_card
from tools.tiny_backbones.language import probe_language, train_language
from tools.tiny_backbones.tokenizer import train_tokenizer
from tools.tiny_backbones.tower import probe_tower, train_tower

DEFAULT_OUT = Path("src/dragonfly_lit/models/tiny_weights")
TOWER_STEPS, LANGUAGE_STEPS = 700, 700


def main(argv: list[str]) -> int:
    """Exit status of `python -m tools.tiny_backbones`."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.tiny_backbones",
        description="Pretrain the tiny vision tower and language model on a drawn world of coloured shapes.",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings, texts and weights (default: %(default)s)")
    parser.add_argument("--tower-steps", type=int, default=TOWER_STEPS, help="(default: %(default)s)")
    parser.add_argument("--language-steps", type=int, default=LANGUAGE_STEPS, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; sums depend on it (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, value in (
        ("--tower-steps", args.tower_steps),
        ("--language-steps", args.language_steps),
        ("--threads", args.threads),
    ):
        if value < 1:
            raise ValueError(f"{name}={value} is too small. Use 1 or more.")
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    tokenizer = train_tokenizer()
    with _progress() as progress:
        tower, heads = train_tower(args.tower_steps, args.seed, _bar(progress, "tower", args.tower_steps))
        language = train_language(
            tokenizer, args.language_steps, args.seed, _bar(progress, "language model", args.language_steps)
        )
    seconds = time.monotonic() - started
    probes = probe_tower(tower, heads, args.seed) | probe_language(language, tokenizer, args.seed)
    tokenizer.save_pretrained(args.out / "tokenizer")
    _save(tower, args.out / "vision")
    _save(language, args.out / "language")
    options = f" --tower-steps {args.tower_steps}" * (args.tower_steps != TOWER_STEPS)
    options += f" --language-steps {args.language_steps}" * (args.language_steps != LANGUAGE_STEPS)
    write_card(
        args.out,
        command=f"python -m tools.tiny_backbones --seed {args.seed}{options}",
        seconds=seconds,
        threads=args.threads,
        num_words=len(tokenizer),
        tower_steps=args.tower_steps,
        language_steps=args.language_steps,
        vision_weights=tower.num_parameters(),
        language_weights=language.num_parameters(),
        probes=probes,
    )
    console = Console()
    for name, value in probes.items():
        console.print(f"{name:<34}{value:.1%}")
    console.print(f"{args.out}: {_num_bytes(args.out) / 1e6:.2f} MB, made in {seconds:.0f} s")
    return 0


def _save(model: PreTrainedModel, folder: Path) -> None:
    model.bfloat16().save_pretrained(folder)


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )


def _bar(progress: Progress, name: str, num_steps: int) -> Callable[[int, dict[str, float]], None]:
    task = progress.add_task(name, total=num_steps, losses="")
    means: dict[str, float] = {}

    def on_step(step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            means[key] = 0.95 * means.get(key, value) + 0.05 * value
        shown = "  ".join(f"{key} {mean:.3f}" for key, mean in means.items())
        progress.update(task, completed=step + 1, losses=shown)

    return on_step
