"""Ways of choosing crops: for each question whether it is answered right, which crops were kept, and passes needed."""

from __future__ import annotations

from itertools import product

from dragonfly_lit.io.later import COMPUTING, loaded_at_first_use

with loaded_at_first_use(*COMPUTING):
    import torch
    from torch import Tensor

    from benchmarks.zoom_ideas.asked import Asked, hidden_from


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
    return {**results, **searching(asked)}


def offsets(outer: int, inner: int) -> list[int]:
    """Where stretches of `inner` crops begin that together cover `outer` crops; the last ones may overlap."""
    return sorted({*range(0, outer - inner, inner), outer - inner})


def searching(asked: Asked) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Of a model that selects, the same by level of a search that halves the sides of where it looks.

    The first level is the largest that the places of kept crops hold; places that a level leaves over are hidden.
    """
    cols, rows = asked.grids[0, 1].tolist()
    num_places = next(asked.passes()).shape[1]
    outer, inner = (rows, cols), (rows, cols)
    while inner[0] * inner[1] > num_places:
        inner = (-(-inner[0] // 2), -(-inner[1] // 2))
    corner = torch.zeros(len(asked.ids), 2, dtype=torch.long)
    results: dict[str, tuple[Tensor, Tensor, int]] = {}
    num_passes = 0
    while True:
        within = (torch.arange(inner[0])[:, None] * cols + torch.arange(inner[1])).flatten()
        sure, corners, rights, parts = [], [], [], []
        for top, left in product(offsets(outer[0], inner[0]), offsets(outer[1], inner[1])):
            num_passes += 1
            begins = corner + torch.tensor([top, left])
            crops = begins[:, :1] * cols + begins[:, 1:] + within
            read = torch.arange(crops.shape[1]).expand(len(crops), -1)
            in_places = crops.repeat(1, -(-num_places // crops.shape[1]))[:, :num_places]
            with torch.no_grad():
                logits = hidden_from(asked, read, 0, in_places)
            sure.append(asked.surest(logits))
            corners.append(begins)
            rights.append(asked.right(logits))
            parts.append(crops)
        best = torch.stack(sure).argmax(0)
        corner = torch.stack(corners)[best, asked.rows]
        results[f"search to {len(within)}"] = (
            torch.stack(rights)[best, asked.rows],
            torch.stack(parts)[best, asked.rows],
            num_passes,
        )
        if inner == (1, 1):
            return results
        outer, inner = inner, (-(-inner[0] // 2), -(-inner[1] // 2))


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
