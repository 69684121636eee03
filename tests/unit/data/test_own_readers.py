"""What a reader of the user's own gives, where it is not a record, is named in one line."""

import pytest

from dragonfly_lit.data.samples import check_record
from dragonfly_lit.spec.samples import Record, Turn


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: None, r"the reader gives a NoneType\. Give a dragonfly_lit\.spec\.records\.Record"),
        (lambda: {"image": b""}, "the reader gives a dict"),
        (
            lambda: Record(key="a", source="s", turns=(Turn(role="assistant", text=7),)),
            r"a: a turn's text is 7\. Give",
        ),
        (lambda: Record(key="a", source="s", turns=(), images=("b.png",)), r"a: an image is the text 'b\.png'\. Give"),
    ],
    ids=["nothing", "dict", "number", "name"],
)
@pytest.mark.usefixtures("unchecked")
def test_a_record_that_is_not_one_is_refused_by_what_it_is(make, told):
    with pytest.raises(ValueError, match=told):
        check_record(make())
