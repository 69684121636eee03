"""Other crops kept at answer time than in training: the same weights, fewer tokens, results of their own."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.app.kept import with_kept
from dragonfly_lit.evaluation.generate import BatchGenerator
from dragonfly_lit.models.tiny import tiny_model, tiny_tokenizer
from dragonfly_lit.processing.image_processor import DragonflyImageProcessor
from dragonfly_lit.processing.processor import DragonflyProcessor

FIND = {"_target_": "dragonfly_lit.models.find.Find"}
NEITHER = {"top_k": None, "regions": None}


def made(zoom, selector=None):
    model = tiny_model(zoom={"high_crops": 16, "high_grid": "medium", "pool": 4, **zoom}, zoom_selector=selector).eval()
    return model, DragonflyProcessor(DragonflyImageProcessor.of(model.config.layout), tiny_tokenizer())


def test_nothing_said_changes_nothing():
    model, processor = made({"top_k": 2}, FIND)
    assert with_kept(model, processor, NEITHER) == (model, processor)


@pytest.mark.parametrize("selector", [None, FIND], ids=["built in", "learned"])
@pytest.mark.parametrize(("top_k", "regions", "num"), [(1, None, 4), (3, "image", 3), (3, None, 12)])
def test_the_best_crops_by_the_same_scores_are_kept_and_the_model_stays_as_it_was(selector, top_k, regions, num):
    model, processor = made({"top_k": 2}, selector)
    view, fewer = with_kept(model, processor, {"top_k": top_k, "regions": regions})
    pixels = torch.randint(0, 256, (2, 21, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grids = torch.tensor([[[2, 2], [4, 4]]]).expand(2, -1, -1)
    with torch.no_grad():
        tokens, ranking = view.encode_images(pixels, grids)
        before, own = model.encode_images(pixels, grids)
    assert ranking.selected.shape == (2, num)
    assert tokens.shape[1] == view.layout.num_slots == fewer.image_processor.layout.num_slots
    assert before.shape[1] == model.layout.num_slots == processor.image_processor.layout.num_slots
    assert own.selected.shape == (2, 8)
    if selector is not None:  # a learned score is the same number whatever is kept
        torch.testing.assert_close(ranking.scores, own.scores)
        assert view.zoom.token.weight.data_ptr() == model.zoom.token.weight.data_ptr()
    if regions == "image" and selector is not None:
        assert torch.equal(ranking.selected, own.scores.topk(num).indices.sort(dim=-1).values)


def test_answers_take_as_many_tokens_as_crops_are_kept():
    view, fewer = with_kept(*made({"top_k": 2}, FIND), {"top_k": 1, "regions": "image"})
    assert (
        len(BatchGenerator(view, fewer).image_ids) == view.layout.num_tokens < made({"top_k": 2})[0].layout.num_tokens
    )


@pytest.mark.parametrize(
    ("zoom", "kept", "message"),
    [
        (
            {"high": False, "top_k": None},
            {"top_k": 1, "regions": None},
            "kept.top_k=1: this model looks at no high crops",
        ),
        ({"top_k": None}, {"top_k": 4, "regions": None}, "kept.top_k=4: all 16 high crops are kept. Give a smaller"),
        ({"top_k": 2, "regions": "image"}, {"top_k": 17, "regions": None}, "kept.top_k=17: "),
    ],
)
def test_a_zoom_that_cannot_be_is_refused_by_the_key_that_was_typed(zoom, kept, message):
    with pytest.raises(ValueError, match=r"kept\.top_k") as refused:
        with_kept(*made(zoom), kept)
    assert str(refused.value).startswith(message)
