"""benchmarks/zoom_ideas.py reads what the model reads, keeps each crop in some pass, hides what it says it hides."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.zoom_ideas import Asked, hidden_from, keeping, selecting
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
    assert {kept.shape for _, kept, _ in results.values()} == {(3, 8)}
    assert {"own", "random", "attention", "gradient", "teacher", "confidence"} == set(results)


def test_what_is_hidden_is_read_by_the_first_block_alone():
    ours, _ = asked({"top_k": None, "pool": 4})
    everything = torch.arange(16).expand(3, -1)
    first, text = ours.model.get_decoder().layers[0], ours.layout.num_tokens
    num_hidden = 8 * ours.layout.pooled_per_crop

    def disturbed(_, __, output):
        hidden = output.clone()
        hidden[ours.rows[:, None], ours.slots[:, -num_hidden:] - ours.rows[:, None] * ours.ids.shape[1]] += 10.0
        return hidden

    with torch.no_grad():
        _, plain = ours.read()
        torch.testing.assert_close(hidden_from(ours, everything), plain)
        half = hidden_from(ours, everything[:, :8])
        assert not torch.allclose(half[:, text:], plain[:, text:])
        hook = first.register_forward_hook(disturbed)
        torch.testing.assert_close(hidden_from(ours, everything[:, :8])[:, text:], half[:, text:])
        hook.remove()
    results = keeping(ours, 4)
    assert {kept.shape[1] for way, (_, kept, _) in results.items() if way != "all"} == {4}
