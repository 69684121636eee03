"""The drawn world: labels are true of the pixels, sentences are true of the scene."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.spec.tokens import BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN, STRUCTURAL
from tools.tiny_backbones.texts import COLOURS, SHAPES, ask, caption
from tools.tiny_backbones.tokenizer import train_tokenizer
from tools.tiny_backbones.world import COLOUR_JITTER, RGB, draw_scene, draw_views


@pytest.fixture(scope="module")
def views():
    return draw_views(40, 4, 32, 8, np.random.default_rng(0))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def test_a_covered_patch_has_the_colour_that_its_label_names(views):
    patches = views.pixels.reshape(-1, 3, 4, 8, 4, 8).mean(axis=(3, 5)).transpose(0, 2, 3, 1).reshape(-1, 16, 3)
    covered = views.cover > 0.999
    assert covered.sum() > 20
    named = np.array([RGB[colour] for colour in COLOURS])[views.colour[covered]]
    assert np.abs(patches[covered] - named).max() <= COLOUR_JITTER + 6, (
        "the jitter, and the edge that bicubic resizing sharpens"
    )


def test_a_patch_is_labelled_with_colour_and_shape_or_with_neither(views):
    assert ((views.colour < 0) == (views.shape < 0)).all()
    assert ((views.colour < 0) == (views.cover <= 0.02)).all()
    assert 0.02 < (views.colour.max(axis=1) < 0).mean() < 0.4, "some crops show ground alone, most do not"


def test_half_the_scenes_lie_amid_clutter_where_shapes_are_as_small_as_a_few_pixels():
    rng = np.random.default_rng(4)
    scenes = [draw_scene(rng) for _ in range(200)]
    # Plain ground is one colour; clutter has hardly a pixel like another.
    num_colours = [len(np.unique(np.asarray(scene.image).reshape(-1, 3), axis=0)) for scene in scenes]
    cluttered = [scene for scene, num in zip(scenes, num_colours, strict=True) if num > 600]
    assert 70 < len(cluttered) < 130
    widths = [(scene.box[2] - scene.box[0]) / scene.image.width for scene in cluttered]
    assert min(widths) < 0.04
    assert max(widths) > 0.4


def test_the_shape_lies_on_light_paper():
    rng = np.random.default_rng(5)
    for scene in (draw_scene(rng) for _ in range(60)):
        left, top, right, bottom = (round(v) for v in scene.box)
        pixels = np.asarray(scene.image)[max(top, 0) : bottom, max(left, 0) : right]
        beside = np.asarray(scene.mask)[max(top, 0) : bottom, max(left, 0) : right] == 0
        if beside.sum() > 8:
            assert np.median(pixels[beside].min(axis=1)) >= 199


def test_the_same_seed_draws_the_same_world(views):
    again = draw_views(40, 4, 32, 8, np.random.default_rng(0))
    assert (again.pixels == views.pixels).all()
    assert (again.shape == views.shape).all()


def test_every_colour_and_shape_is_drawn():
    rng = np.random.default_rng(1)
    scenes = [draw_scene(rng) for _ in range(300)]
    assert {(s.colour, s.shape) for s in scenes} > {(c, 0) for c in range(len(COLOURS))}
    assert {s.shape for s in scenes} == set(range(len(SHAPES)))
    assert all(np.asarray(s.mask).any() for s in scenes), "a shape never lies wholly outside"


def test_every_answer_is_true_of_its_scene():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(3000):
        colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        asked = ask(colour, shape, rng)
        words = asked.text.rstrip("?.").split()
        seen.add(asked.answer)
        if asked.holds is None:
            assert asked.answer in (colour, shape, caption(colour, shape)), asked
            continue
        named = {word for word in words if word in (*COLOURS, *SHAPES)}
        assert asked.holds == (named <= {colour, shape} and bool(named)), asked
        negated = "not" in words or "no" in words
        assert asked.answer == ("yes" if asked.holds != negated else "no"), asked
    assert {"yes", "no", *COLOURS, *SHAPES} < seen


def test_nothing_is_negated_where_the_share_is_zero():
    rng = np.random.default_rng(3)
    texts = [ask("red", "star", rng, share_negated=0.0).text for _ in range(500)]
    assert not any(" no" in text for text in texts)


def test_a_caption_has_the_article_that_its_colour_wants():
    assert caption("red", "star") == "a red star"
    assert caption("orange", "star") == "an orange star"


def test_every_word_of_the_world_is_one_token(tokenizer):
    for word in (*COLOURS, *SHAPES, "yes", "no"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
    for word in (*COLOURS, *SHAPES):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def test_structural_tokens_are_one_piece_and_play_their_roles(tokenizer):
    for token in STRUCTURAL:
        assert tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (BEGIN_OF_TEXT, END_OF_TURN, END_OF_TEXT)
    assert tokenizer.encode("a red star")[0] == tokenizer.bos_token_id


def test_the_tokenizer_is_the_same_every_time(tokenizer):
    assert train_tokenizer().get_vocab() == tokenizer.get_vocab()


@given(st.text())
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
