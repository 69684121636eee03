"""Text files in the encodings that people save."""

import pytest

from dragonfly_lit.io.text import counted, read_text, text_lines

TEXT = 'image,caption\na.jpg,"café\u2028 au lait"\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_whatever_its_encoding(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT
    assert len(list(text_lines(path))) == 2


def test_other_bytes_stay_marked_in_their_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("café\nthé\ntea\n".encode("latin-1"))
    assert list(text_lines(path)) == ["caf\udce9\n", "th\udce9\n", "tea\n"]


def test_a_cut_file_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.encode("utf-16")[:-1])
    with pytest.raises(ValueError, match=r"a\.csv starts as UTF-16 and is not: truncated data\. Save it as UTF-8\."):
        read_text(path)


@pytest.mark.parametrize(("number", "told"), [(0, "0 samples"), (1, "1 sample"), (2000, "2,000 samples")])
def test_things_are_counted_in_words(number, told):
    assert counted(number, "sample") == told
