"""Zoom without training: ways of choosing crops when a trained model answers, on the probes, beside the model's own.

    python train.py experiment=zoom_ablation experiment/cell=find_64 seed=0 name=find_64_s0   # a run to ask, or several
    python benchmarks/zoom_ideas.py runs/find_64_s0 runs/find_64_s1 runs/find_64_s2
    python benchmarks/zoom_ideas.py runs/high_36_s0 --json ideas.json                         # one that keeps all crops

A run that selects crops is asked several times about each image, with other crops kept each time, until it has read all
of them; a run that keeps all crops is asked once, and most of its high crops are then hidden from it. A question is
answered right when every word of the answer is the likeliest one, which is what greedy search gives. Runs of one cell
with several seeds make the intervals (Student's, 95%). A pass is a reading by the language model; a backward one
counts as two.

The ways, for a run that selects: `own` is its own rule, `random` keeps any crops; `attention` keeps the crops that the
answer's first word looks at most, relative to a question that asks for nothing (as ViCrop, arXiv 2502.17422);
`gradient` those whose tokens the likeliest answer depends on most; `confidence` answers from the pass that is surest
(as ZoomEye, arXiv 2411.16044, one level deep). `teacher` knows the right answer: the largest gradient of its loss, and
is there to say what a rule could be taught. For a run that keeps all: `all`; `pruned` hides from the second block on
what the last word looks at least in the first (as FastV, arXiv 2403.06764), and `emptied` hides every high crop there,
to say what is left to lose; `attention` hides from all blocks what that word looks at least, which costs a second pass;
`left_out` reads the crops again without one at a time, and keeps those without which the right answer is least likely:
a teacher, as is `teacher`. All but `pruned` and `emptied` are then read with the other crops hidden from all blocks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):  # --help loads none of it
    import numpy as np
    import torch
    from PIL import Image
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
    from torch import Tensor

    from dragonfly_lit.app.load import load_for_inference
    from dragonfly_lit.evaluation.benchmarks.probes import Probes
    from dragonfly_lit.evaluation.selection import crop_of
    from dragonfly_lit.evaluation.study.cells import estimate
    from dragonfly_lit.evaluation.study.tables import percent
    from dragonfly_lit.io.parsers import SMALL
    from dragonfly_lit.models.fusion import fill_slots, slots_of_images
    from dragonfly_lit.models.zoom import crop_regions, select_crops

NEUTRAL = "write a general description of the image."


class Asked:
    """A batch of questions about one image each, in tokens, and a model that reads them with any crops kept.

    Args:
        model: in eval mode, with attention that gives its weights (`eager`).
        processor: its processor.
        questions: of the probes.
        neutral: whether each question is replaced by one that asks for nothing.
    """

    def __init__(self, model: Any, processor: Any, questions: list[Any], *, neutral: bool = False) -> None:
        self.model, self.layout = model, model.config.layout
        images = [Image.open(BytesIO(question.read_images()[0])) for question in questions]
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": image},
                        {"type": "text", "text": NEUTRAL if neutral else question.text},
                    ],
                },
                {"role": "assistant", "content": question.references[0]},
            ]
            for image, question in zip(images, questions, strict=True)
        ]
        batch = processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, supervise="assistant", padding_side="right"
        )
        self.ids, self.mask, self.labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        self.pixels, self.grids = batch["pixel_values"], batch["image_grids"]
        self.slots = slots_of_images(self.ids, model.config.image_token_id, len(questions), self.layout.num_slots)
        self.first = (self.labels != -100).int().argmax(1) - 1  # where the first word of the answer is foretold
        self.regions = crop_regions(self.layout.zoom, len(questions), self.grids)
        with torch.no_grad():
            num_low_medium = int(self.layout.zoom.low) + self.layout.zoom.num_medium
            features = model._features(self.pixels)
            low, medium, high = features.tensor_split((int(self.layout.zoom.low), num_low_medium), dim=1)
            self.tokens = model._project(low, medium, high)
            self.ranking = model._rank(medium, high, self.grids, None) if self.layout.zoom.selects else None
        per_crop = self.layout.pooled_per_crop
        others, crops = self.tokens.tensor_split((self.tokens.shape[1] - high.shape[1] * per_crop,), dim=1)
        self.others, self.crops = others, crops.unflatten(1, (-1, per_crop))
        self.rows = torch.arange(len(questions))

    def keep(self, scores: Tensor) -> Tensor:
        """Indices (questions, kept) of the best crops under the model's own zoom."""
        return select_crops(scores, self.regions, self.layout.zoom)

    def read(self, kept: Tensor | None = None, crops: Tensor | None = None, **options: Any) -> tuple[Any, Tensor]:
        """What the language model gives with the kept crops, or these ones, in their places; and its logits."""
        crops = self.crops if crops is None else crops
        if kept is not None:
            crops = crops[self.rows[:, None], kept]
        tokens = torch.cat([self.others, crops.flatten(1, 2)], dim=1)
        embeddings = fill_slots(self.model.get_input_embeddings()(self.ids), self.slots, tokens)
        output = self.model.get_decoder()(
            inputs_embeds=embeddings, attention_mask=self.mask, use_cache=False, **options
        )
        return output, self.model.get_output_embeddings()(output.last_hidden_state)

    def right(self, logits: Tensor) -> Tensor:
        """Whether each question is answered right, word for word."""
        wanted = self.labels[:, 1:]
        return ((logits[:, :-1].argmax(-1) == wanted) | (wanted == -100)).all(1)

    def likely(self, logits: Tensor) -> Tensor:
        """Logarithm of how likely the right answer is."""
        wanted = self.labels[:, 1:].clamp(min=0)
        found = logits[:, :-1].log_softmax(-1).gather(2, wanted[:, :, None])[:, :, 0]
        return (found * (self.labels[:, 1:] != -100)).sum(1)

    def surest(self, logits: Tensor) -> Tensor:
        """Logarithm of how likely the likeliest first word is."""
        return logits[self.rows, self.first].log_softmax(-1).amax(-1)

    def looked_at(self, output: Any, blocks: slice = slice(None)) -> Tensor:
        """What the last word before the answer pays to each high crop in its place: a mean over blocks and heads."""
        weights = torch.stack(output.attentions[blocks]).mean(dim=(0, 2))[self.rows, self.first]
        places = (self.slots - self.rows[:, None] * self.ids.shape[1])[:, self.others.shape[1] :]
        return weights.gather(1, places).unflatten(1, (-1, self.layout.pooled_per_crop)).sum(-1)

    def depends(self, kept: Tensor | None, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Norm of the gradient of `loss_of(logits)` at the tokens of each high crop in its place."""
        crops = self.crops if kept is None else self.crops[self.rows[:, None], kept]
        crops = crops.detach().clone().requires_grad_()
        _, logits = self.read(None, crops)
        (slope,) = torch.autograd.grad(loss_of(logits).sum(), crops)
        return slope.flatten(2).norm(dim=-1)

    def passes(self) -> Iterator[Tensor]:
        """Kept crops of one pass after the other, until each crop has been kept at least once."""
        zoom = self.layout.zoom
        same = self.regions[:, :, None] == self.regions[:, None, :]
        number = torch.tril(same, diagonal=-1).sum(-1)  # of each crop within its region
        size = int(same[0, 0].sum())
        for start in range(0, size, zoom.top_k):
            start = min(start, size - zoom.top_k)
            yield self.keep(((number >= start) & (number < start + zoom.top_k)).float())


def selecting(asked: Asked, neutral: Asked, draw: torch.Generator) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Of a model that selects: by way whether each question is right, which crops were kept, and passes needed."""
    shape = asked.crops.shape[:2]
    low = torch.full(shape, float("-inf"))
    found = {name: low.clone() for name in ("attention", "gradient", "teacher")}
    sure, answered, chosen = torch.full((len(asked.ids),), float("-inf")), None, None
    num_passes = 0
    for kept in asked.passes():
        num_passes += 1
        with torch.no_grad():
            output, logits = asked.read(kept, output_attentions=True)
            plain, _ = neutral.read(kept, output_attentions=True)
        attention = asked.looked_at(output) / neutral.looked_at(plain)
        gradient = asked.depends(kept, asked.surest)
        teacher = asked.depends(kept, asked.likely)
        for name, values in (("attention", attention), ("gradient", gradient), ("teacher", teacher)):
            found[name] = found[name].scatter(1, kept, values)
        surer = asked.surest(logits) > sure
        right = asked.right(logits)
        answered = right if answered is None else torch.where(surer, right, answered)
        chosen = kept if chosen is None else torch.where(surer[:, None], kept, chosen)
        sure = torch.maximum(sure, asked.surest(logits))
    assert asked.ranking is not None
    assert answered is not None
    assert chosen is not None
    ways = {
        "own": (asked.ranking.scores, 1),
        "random": (torch.rand(shape, generator=draw), 1),
        "attention": (found["attention"], 2 * num_passes + 1),
        "gradient": (found["gradient"], 3 * num_passes + 1),
        "teacher": (found["teacher"], 3 * num_passes + 1),
    }
    results = {}
    for name, (scores, count) in ways.items():
        kept = asked.keep(scores)
        with torch.no_grad():
            results[name] = (asked.right(asked.read(kept)[1]), kept, count)
    results["confidence"] = (answered, chosen, num_passes)
    return results


def keeping(asked: Asked, budget: int) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Of a model that keeps all high crops, the same; `budget` of them are left where some are hidden."""
    num_crops = asked.crops.shape[1]
    everything = torch.arange(num_crops).expand(len(asked.ids), -1)
    with torch.no_grad():
        output, logits = asked.read(output_attentions=True)
        looked_at = asked.looked_at(output, slice(0, 1)).topk(budget).indices
        mean = asked.crops.mean(dim=1)
        without = []
        for crop in range(num_crops):
            crops = asked.crops.clone()
            crops[:, crop] = mean  # its place stays, so that nothing else moves
            without.append(asked.likely(asked.read(crops=crops)[1]))
    left_out = torch.stack(without, dim=1).topk(budget, largest=False).indices
    teacher = asked.depends(None, asked.likely).topk(budget).indices
    ways = {
        "pruned": (looked_at, 1, 1),
        "emptied": (everything[:, :0], 1, 1),
        "attention": (looked_at, 0, 2),
        "left_out": (left_out, 0, num_crops + 2),
        "teacher": (teacher, 0, 4),
    }
    results = {"all": (asked.right(logits), everything, 1)}
    with torch.no_grad():
        for name, (kept, block, passes) in ways.items():
            results[name] = (asked.right(hidden_from(asked, kept, block)), kept, passes)
    return results


def hidden_from(asked: Asked, kept: Tensor, block: int) -> Tensor:
    """Logits where this block and those behind it see the kept high crops only."""
    seen = torch.zeros(asked.crops.shape[:2], dtype=torch.bool).scatter(1, kept, True)
    gone = ~seen.repeat_interleave(asked.layout.pooled_per_crop, dim=1)
    places = (asked.slots - asked.rows[:, None] * asked.ids.shape[1])[:, asked.others.shape[1] :]
    hidden = torch.zeros(asked.ids.shape, dtype=torch.bool).scatter(1, places, gone)

    def hide(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        mask = options["attention_mask"]
        options["attention_mask"] = mask.masked_fill(hidden[:, None, None, :], torch.finfo(mask.dtype).min)
        return args, options

    hooks = [
        block.register_forward_pre_hook(hide, with_kwargs=True) for block in asked.model.get_decoder().layers[block:]
    ]
    try:
        return asked.read()[1]
    finally:
        for hook in hooks:
            hook.remove()


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
