"""What a reader of the user's own gives, where it is not a record, is named in one line."""

import pickle

import pytest

from dragonfly_lit.data.members import BadSampleError
from dragonfly_lit.data.samples import check_record
from dragonfly_lit.data.source import Reader, Source
from dragonfly_lit.data.source_spec import SourceSpec
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


class Promising(Reader):
    """Says that it has more records than it has."""

    digest = "1"

    def __len__(self) -> int:
        return 5

    def record(self, index: int, epoch: int) -> Record:
        return [Record(key="a", source="s", turns=())][index]


def test_a_reader_that_promises_too_much_is_told_by_its_source():
    source = Source(spec=SourceSpec(name="mine", path="", reader=Promising()), reader=Promising(), seed=0)
    with pytest.raises(BadSampleError) as told:
        source.record(3, 0)
    expected = (
        "source mine (Promising), sample #3: IndexError: list index out of range. It is record 3 of the 5 that its "
        "__len__ promises."
    )
    assert str(told.value) == str(pickle.loads(pickle.dumps(told.value))) == expected
