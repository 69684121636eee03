"""Images among the words of a turn: kept by a shard, read from parts, refused where they cannot be."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from dragonfly_lit.spec.samples import Record, Turn, turn_of_parts
from dragonfly_lit.spec.shard import record_from_json, record_to_json

PARTS = st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), max_size=8)


@given(parts=PARTS)
def test_a_shard_keeps_every_image_where_it_stands(parts):
    turn = turn_of_parts("user", parts)
    images = tuple(b"x" for _ in range(turn.num_images))
    record = Record(key="a", source="s", turns=(turn, Turn(role="assistant", text="b")), images=images)
    again = record_from_json("a", json.loads(json.dumps(record_to_json(record))), images)
    assert again.turns == record.turns
    assert turn.text == "".join(part or "" for part in parts)
    assert (
        turn.with_images("\0").strip().replace("\0", "").strip() == turn.text.replace("\0", "").strip()
        or "\0" in turn.text
    )


def test_a_shard_without_images_inside_is_the_one_it_always_was():
    turns = (Turn(role="user", text="What?", num_images=2), Turn(role="assistant", text=""))
    told = record_to_json(Record(key="a", source="s", turns=turns, images=(b"x", b"y")))["conversations"]
    assert told == [
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
    ]
