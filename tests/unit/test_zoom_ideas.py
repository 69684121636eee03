"""benchmarks/zoom_ideas reads what the model reads, keeps each crop in some pass, hides what it says it hides."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.zoom_ideas.asked import Asked, hidden_from
from benchmarks.zoom_ideas.ways import keeping, offsets, searching, selecting
from dragonfly_lit.evaluation.question import Question
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor

SELECTS = ({"top_k": 1, "pool": 4}, {"top_k": 2, "pool": 4}, {"top_k": 3, "regions": "image"})


def asked(zoom, num=3):
    model = tiny_model(zoom={"high_crops": 16, "high_grid": "medium", **zoom}).eval()
    model.get_decoder().config._attn_implementation = "eager"
    processor = DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer())
    draw, questions = np.random.default_rng(0), []
    for number in range(num):
        stream = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(stream, "png")
        text = "what color is the shape?" if number else "what shape is in the image?"
        question = Question(id=str(number), task="probes", text=text, images=(stream.getvalue(),), references=("red",))
        questions.append(question)
    return Asked(model, processor, questions), Asked(model, processor, questions, neutral=True)


@pytest.mark.parametrize("zoom", SELECTS, ids=str)
def test_it_reads_what_the_model_reads_and_its_passes_keep_every_crop(zoom):
    ours, _ = asked(zoom)
    assert ours.ranking is not None
    kept = ours.keep(ours.ranking.scores)
    given = {"input_ids": ours.ids, "attention_mask": ours.mask, "image_grids": ours.grids}
    with torch.no_grad():
        output = ours.model(**given, pixel_values=ours.pixels)
        torch.testing.assert_close(ours.read(kept)[1], output.logits)
    assert torch.equal(kept, output.selected_crops)
    seen = torch.zeros(ours.crops.shape[:2], dtype=torch.bool)
    for crops in ours.passes():
        assert crops.shape == kept.shape
        seen.scatter_(1, crops, True)
    assert seen.all()


def test_every_way_keeps_as_many_crops():
    ours, neutral = asked(SELECTS[1])
    results = selecting(ours, neutral, torch.Generator().manual_seed(0))
    searched = {way: results.pop(way) for way in list(results) if way.startswith("search")}
    assert {kept.shape for _, kept, _ in results.values()} == {(3, 8)}
    assert {"own", "random", "attention", "gradient", "teacher", "confidence"} == set(results)
    # Of 4x4 crops the 8 places hold 2x2: four of these, then four of one.
    assert {way: (kept.shape[1], passes) for way, (_, kept, passes) in searched.items()} == {
        "search to 4": (4, 4),
        "search to 1": (1, 8),
    }


@pytest.mark.parametrize(("outer", "inner"), [(8, 4), (6, 3), (3, 2), (5, 3), (1, 1), (7, 2)])
def test_stretches_cover_all_that_they_divide(outer, inner):
    starts = offsets(outer, inner)
    assert sorted({place for start in starts for place in range(start, start + inner)}) == list(range(outer))


def test_a_search_goes_on_where_it_is_surest(monkeypatch):
    """A model whose sureness is told by one crop finds that crop, level by level, and its passes show no other crop."""
    ours, _ = asked(SELECTS[1])
    wanted = torch.tensor([0, 6, 15])
    shown = []

    def read(kept=None, crops=None, **options):
        shown.append(kept)
        return None, kept

    monkeypatch.setattr(ours, "read", read)
    monkeypatch.setattr(ours, "surest", lambda kept: (kept == wanted[:, None]).any(1).float())
    monkeypatch.setattr(ours, "right", lambda kept: (kept == wanted[:, None]).any(1))
    results = searching(ours)
    assert [right.all().item() for right, _, _ in results.values()] == [True, True]
    assert results["search to 1"][1][:, 0].tolist() == wanted.tolist()
    assert results["search to 4"][1].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [10, 11, 14, 15]]
    assert {kept.shape for kept in shown} == {(3, 8)}
    assert len(shown) == 8


def test_a_search_reads_the_crops_of_a_level_and_no_other():
    ours, _ = asked(SELECTS[1])
    read, rest = torch.arange(4).expand(3, -1), torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]])
    first = torch.tensor([0, 1, 4, 5]).expand(3, -1)
    text = ours.layout.num_tokens
    with torch.no_grad():
        one = hidden_from(ours, read, 0, torch.cat([first, first], 1))[:, text:]
        other = hidden_from(ours, read, 0, torch.cat([first, rest], 1))[:, text:]
        plain = ours.read(torch.cat([first, rest], 1))[1][:, text:]
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, plain)


@pytest.mark.parametrize("block", [0, 1])
def test_what_is_hidden_is_read_by_the_blocks_before_alone(block):
    ours, _ = asked({"top_k": None, "pool": 4})
    everything, text = torch.arange(16).expand(3, -1), ours.layout.num_tokens
    places = (ours.slots - ours.rows[:, None] * ours.ids.shape[1])[:, -8 * ours.layout.pooled_per_crop :]

    def disturbed(_, args, options):
        (hidden,) = args
        hidden = hidden.clone()
        hidden[ours.rows[:, None], places] += 10.0
        return (hidden,), options

    with torch.no_grad():
        _, plain = ours.read()
        torch.testing.assert_close(hidden_from(ours, everything, block), plain)
        half = hidden_from(ours, everything[:, :8], block)
        assert not torch.allclose(half[:, text:], plain[:, text:])
        hook = ours.model.get_decoder().layers[block].register_forward_pre_hook(disturbed, with_kwargs=True)
        torch.testing.assert_close(hidden_from(ours, everything[:, :8], block)[:, text:], half[:, text:])
        hook.remove()


def test_a_run_that_keeps_all_is_read_with_as_many_crops_by_every_way():
    ours, _ = asked({"top_k": None, "pool": 4})
    numbers = {way: kept.shape[1] for way, (_, kept, _) in keeping(ours, 4).items()}
    assert numbers == {"all": 16, "pruned": 4, "emptied": 0, "attention": 4, "left_out": 4, "teacher": 4}
