"""A sweep as tables, curves and one HTML page: `python -m dragonfly_lit study runs/zoom_ablation`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.markdown import Markdown

from dragonfly_lit.evaluation.study.cells import read_study
from dragonfly_lit.evaluation.study.gallery import gallery
from dragonfly_lit.evaluation.study.gathered import gather, markdown
from dragonfly_lit.evaluation.study.page import page
from dragonfly_lit.evaluation.study.questions import questions_of
from dragonfly_lit.io import atomic, disk
from dragonfly_lit.io.commands import as_typed
from dragonfly_lit.io.commits import commit_of_clone
from dragonfly_lit.io.console import standard_output
from dragonfly_lit.io.lock import locked
from dragonfly_lit.io.parsers import SMALL, study_parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; writes `study.md`, `study.html` and the curves beside the jobs, or into --out."""
    args = study_parser().parse_args(argv)
    if not args.folder.is_dir():
        raise ValueError(f"{args.folder} is not a folder. Give that of a sweep, such as runs/zoom_ablation.")
    out = args.out or args.folder
    with locked(out, way_out="Wait until it has ended or end it, or give another --out."), disk.naming(out):
        _write(args, out)
    return 0


def _write(args: argparse.Namespace, out: Path) -> None:
    study = read_study(args.folder)
    questions = questions_of(study)
    command = shlex.join(["python", "-m", "dragonfly_lit", "study", str(args.folder), *_changed(args)])
    if (commit := commit_of_clone()) is not None:
        command += f" at commit {commit}"
    gathered = gather(study, out, questions, small_at_most=args.small, command=as_typed(command))
    examples, note = gallery(study, questions, per_size=args.images)
    text = markdown(gathered)
    atomic.write(out / "study.md", text)
    atomic.write(out / "study.html", page(study, gathered, examples, note=note))
    standard_output().print(Markdown(text))
    print(f"study.md, study.html and {len(gathered.figures)} figures, each as SVG and PNG, are in {out}")


def _changed(args: argparse.Namespace) -> list[str]:
    """The option that changes what figures show, where it was given."""
    return [f"--small={args.small}"] if args.small != SMALL else []
