"""Sequences to batches."""

from __future__ import annotations

import pytest
import torch

from dragonfly_lit.processing.batches import collate, pack
from dragonfly_lit.processing.sequences import SequenceBuilder
from dragonfly_lit.spec.records import Sample, Turn
from dragonfly_lit.spec.tokens import IGNORE


@pytest.fixture(scope="module")
def sequences(tokenizer, small, picture):
    builder = SequenceBuilder(tokenizer=tokenizer, layout=small, max_tokens=4096)

    def turns(answer, images):
        return Turn(role="user", text="Q", num_images=images), Turn(role="assistant", text=answer)

    return [
        builder.build(Sample(key="a", source="s", turns=turns("A long answer.", 1), images=(picture(40, 10),))),
        builder.build(Sample(key="b", source="t", turns=turns("No.", 0))),
        builder.build(
            Sample(
                key="c",
                source="s",
                turns=turns("X", 2) + turns("Y", 0),
                images=(picture(9, 9), picture(10, 40)),
                share_image=True,
            )
        ),
    ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_hold_their_sequences_and_nothing_else(sequences, side):
    batch = collate(sequences, pad_id=7, side=side)
    for row, sequence in enumerate(sequences):
        own = batch.sample_ids[row] >= 0
        assert own.sum() == len(sequence)
        assert own[0 if side == "right" else -1]
        for name in ("input_ids", "labels", "position_ids", "branch_ids", "question_mask", "sample_ids"):
            assert torch.equal(getattr(batch, name)[row][own], getattr(sequence, name)), name
        assert (batch.input_ids[row][~own] == 7).all()
        assert (batch.labels[row][~own] == IGNORE).all()
        assert (batch.position_ids[row][~own] == 0).all()
        assert (batch.label_weights[row][~own] == 0).all()


def test_images_follow_one_another_in_the_order_of_their_slots(sequences):
    batch = collate(sequences, pad_id=7)
    images = [crops for sequence in sequences for crops in sequence.crops]
    assert torch.equal(batch.pixel_values, torch.stack([i.pixels for i in images]))
    assert batch.image_grids.tolist() == [[list(i.grids.medium), list(i.grids.high)] for i in images]
    assert (batch.keys, batch.sources) == ((("a",), ("b",), ("c",)), (("s",), ("t",), ("s",)))


def test_a_batch_without_images_has_no_pixels(sequences):
    batch = collate(sequences[1:2], pad_id=7)
    assert batch.pixel_values is None
    assert batch.image_grids is None


def test_a_pack_is_its_sequences_behind_one_another(sequences):
    packed = pack(sequences)
    assert len(packed) == sum(map(len, sequences))
    assert packed.sample_ids.tolist() == [i for i, s in enumerate(sequences) for _ in range(len(s))]
    for name in ("input_ids", "labels", "position_ids", "branch_ids", "question_mask"):
        assert torch.equal(getattr(packed, name), torch.cat([getattr(s, name) for s in sequences])), name
    assert packed.keys == ("a", "b", "c")


def test_packs_of_packs_number_every_sample(sequences):
    nested = pack([pack(sequences[:2]), sequences[2]])
    assert torch.equal(nested.sample_ids, pack(sequences).sample_ids)


@pytest.mark.parametrize(
    ("weighting", "total"), [("token", lambda n: n), ("sample", lambda n: 1), ("sqrt", lambda n: n**0.5)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_weights_of_a_sample_sum_to(sequences, weighting, total, packed):
    batch = collate([pack(sequences)] if packed else sequences, pad_id=7, weighting=weighting)
    assert torch.equal(batch.label_weights > 0, batch.labels != IGNORE)
    for i, sequence in enumerate(sequences):
        own = batch.label_weights[0][batch.sample_ids[0] == i] if packed else batch.label_weights[i]
        assert own.sum().item() == pytest.approx(total(int((sequence.labels != IGNORE).sum())), rel=1e-5)


def test_the_first_token_of_a_sample_has_no_label(sequences):
    from dataclasses import replace

    bold = [replace(s, labels=s.input_ids) for s in sequences]
    batch = collate([pack(bold)], pad_id=7)
    starts = [0, len(bold[0]), len(bold[0]) + len(bold[1])]
    assert (batch.labels[0, starts] == IGNORE).all()
    assert (batch.labels == IGNORE).sum() == 3 + 2  # and of the two branches of c


def test_pad_to_gives_static_shapes_or_says_what_does_not_fit(sequences):
    assert collate(sequences, pad_id=7, pad_to=300).input_ids.shape == (3, 300)
    with pytest.raises(ValueError, match="does not fit pad_to=20"):
        collate(sequences, pad_id=7, pad_to=20)


def test_nothing_cannot_be_collated_or_packed():
    with pytest.raises(ValueError, match="no sequence"):
        collate([], pad_id=7)
    with pytest.raises(ValueError, match="no sequence"):
        pack([])


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_says_on_the_host_what_a_device_would_be_asked_for(sequences, side):
    batch = collate([pack(sequences[:2]), sequences[2]], pad_id=7, side=side)
    known, image = batch.outline, batch.input_ids == sequences[0].input_ids[sequences[0].image_slots[0]]
    assert torch.equal(known.image_slots, image.flatten().nonzero().squeeze(1))
    assert torch.equal(known.supervised, (batch.labels != IGNORE).flatten().nonzero().squeeze(1))
    assert known.num_tokens == int((batch.sample_ids >= 0).sum())
    assert known.num_pairs == int((batch.position_ids[batch.sample_ids >= 0] + 1).sum())
    assert not known.plain
    assert collate(sequences[:2], pad_id=7, side=side).outline.plain == (side == "right")


def test_a_batch_moves_without_a_wait_from_page_locked_memory(sequences, monkeypatch):
    batch, waits, move = collate(sequences, pad_id=7), [], torch.Tensor.to

    def watched(self, device, non_blocking=False):
        waits.append(not non_blocking)
        return move(self, device)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    batch.to("cpu")
    assert all(waits)
    waits.clear()
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    meta = batch.to("meta")
    assert not any(waits)
    assert meta.outline.supervised.is_meta
    assert meta.outline.packing.ends.is_meta
    assert not meta.outline.packing.host_ends.is_meta
