"""Fusion: features land on their own slots, and a wrong count is refused."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.models.fusion import fill_slots, question_means, slots_of_images


def test_features_land_on_the_slots_in_order():
    ids = torch.tensor([[1, 9, 9, 2, 9, 9], [3, 3, 9, 4, 9, 5]])
    slots = slots_of_images(ids, 9, 3, 2)
    tokens = torch.arange(1.0, 7).view(3, 2, 1)
    filled = fill_slots(torch.zeros(2, 6, 1), slots, tokens)
    assert filled.squeeze(2).tolist() == [[0, 1, 2, 0, 3, 4], [0, 0, 5, 0, 6, 0]]


def test_a_wrong_count_names_both_numbers_and_what_would_happen():
    with pytest.raises(ValueError, match=r"2 image slots \(token 9\), but 1 images of 3 tokens fill 3: .* wrong words"):
        slots_of_images(torch.tensor([[9, 9, 1]]), 9, 1, 3)


def test_an_image_that_was_not_given_is_refused(model, make):
    batch = make.batch(make.sequence(1))
    with pytest.raises(ValueError, match="0 images"):
        model(input_ids=batch.input_ids)


def test_the_question_of_an_image_is_that_of_its_own_sample():
    ids = torch.tensor([[9, 1, 2, 9, 3, 4]])
    samples = torch.tensor([[0, 0, 0, 1, 1, 1]])
    mask = torch.tensor([[False, True, True, False, False, True]])
    words = torch.arange(6.0).view(1, 6, 1)
    means, counts = question_means(words, slots_of_images(ids, 9, 2, 1), mask, samples)
    assert means.flatten().tolist() == [1.5, 5]
    assert counts.tolist() == [2, 1]
