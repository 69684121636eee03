"""Zoom without training: ways of choosing crops when a trained model answers, on the probes, beside the model's own.

    python train.py experiment=zoom_ablation experiment/cell=find_64 seed=0 name=find_64_s0   # a run to ask, or several
    python -m benchmarks.zoom_ideas runs/find_64_s0 runs/find_64_s1 runs/find_64_s2
    python -m benchmarks.zoom_ideas runs/high_36_s0 --json ideas.json                         # one that keeps all crops

A run that selects crops is asked several times about each image, with other crops kept each time, until it has read all
of them; a run that keeps all crops is asked once, and most of its high crops are then hidden from it. A question is
answered right when every word of the answer is the likeliest one, which is what greedy search gives. Runs of one cell
with several seeds make the intervals (Student's, 95%). A pass is a reading by the language model; a backward one
counts as two.

The ways, for a run that selects: `own` is its own rule, `random` keeps any crops; `attention` keeps the crops that the
answer's first word looks at most, relative to a question that asks for nothing (as ViCrop, arXiv 2502.17422);
`gradient` those whose tokens the likeliest answer depends on most; `confidence` answers from the pass that is surest
(as ZoomEye, arXiv 2411.16044, one level deep). `search to N` halves the sides of where it looks, level by level, and
goes on where the pass was surest, until N crops are left: each level is a row, answered from its surest pass (as
ZoomEye's descent, without its going back). `teacher` knows the right answer: the largest gradient of its loss, and
is there to say what a rule could be taught. For a run that keeps all: `all`; `pruned` hides from the second block on
what the last word looks at least in the first (as FastV, arXiv 2403.06764), and `emptied` hides every high crop there,
to say what is left to lose; `attention` hides from all blocks what that word looks at least, which costs a second pass;
`left_out` reads the crops again without one at a time, and keeps those without which the right answer is least likely:
a teacher, as is `teacher`. All but `pruned` and `emptied` are then read with the other crops hidden from all blocks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import numpy as np
    import torch
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from benchmarks.zoom_ideas.asked import Asked
    from benchmarks.zoom_ideas.ways import keeping, selecting
    from dragonfly_lit.app.load import load_for_inference
    from dragonfly_lit.evaluation.benchmarks.probes import Probes
    from dragonfly_lit.evaluation.selection import crop_of
    from dragonfly_lit.evaluation.study.cells import estimate
    from dragonfly_lit.evaluation.study.tables import percent
    from dragonfly_lit.io.parsers import SMALL


def measure(run: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Of one run by way: accuracy on small details and on all, recall on small ones, high crops kept, and passes."""
    model, processor = load_for_inference(run)
    model.get_decoder().config._attn_implementation = "eager"
    questions = list(Probes().read(given.data))[: given.limit]
    layout, draw = model.config.layout, torch.Generator().manual_seed(0)
    found: dict[str, list[tuple[bool, bool, bool]]] = {}
    passes, kept_by = {}, {}
    for start in track(range(0, len(questions), given.batch_size), f"asking {run.name}"):
        part = questions[start : start + given.batch_size]
        asked = Asked(model, processor, part)
        if layout.zoom.selects:
            results = selecting(asked, Asked(model, processor, part, neutral=True), draw)
        else:
            results = keeping(asked, given.budget)
        cols, rows = asked.grids[0, 1].tolist()
        for way, (right, kept, num_passes) in results.items():
            passes[way], kept_by[way] = num_passes, kept.shape[1]
            for question, is_right, crops in zip(part, right.tolist(), kept.tolist(), strict=True):
                place = crop_of(question.meta["box"], question.meta["side"], cols, rows)
                found.setdefault(way, []).append((question.meta["size"] <= SMALL, is_right, place in crops))
    return {
        way: {
            "small": float(np.mean([right for small, right, _ in rows if small])),
            "all": float(np.mean([right for _, right, _ in rows])),
            "recall": float(np.mean([hit for small, _, hit in rows if small])),
            "crops": kept_by[way],
            "high tokens": kept_by[way] * layout.pooled_per_crop,
            "passes": passes[way],
        }
        for way, rows in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="runs of one cell, a seed each")
    parser.add_argument("--data", type=Path, default=Path("data/probes"))
    parser.add_argument("--budget", type=int, default=8, help="high crops left of a run that keeps all (default 8)")
    parser.add_argument("--batch-size", type=int, default=50, help="questions at a time")
    parser.add_argument("--limit", type=int, default=None, help="only the first questions")
    parser.add_argument("--json", type=Path, default=None, help="where the numbers go as well")
    given = parser.parse_args()
    measured = {str(run): measure(run, given) for run in given.runs}
    table = Table(title=f"Crops chosen at answer time, {len(measured)} run(s), details up to {SMALL:.0%}")
    for column in ("way", "small details, %", "all, %", "recall on small, %", "high crops kept", "passes"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in next(iter(measured.values())):
        of_way = [run[way] for run in measured.values()]
        cells = [percent(estimate(run[name] for run in of_way)) for name in ("small", "all", "recall")]
        table.add_row(way, *cells, str(of_way[0]["crops"]), str(of_way[0]["passes"]))
    Console().print(table)
    if given.json:
        given.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
