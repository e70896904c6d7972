import pytest

from datasets import DataError
from datasets.textfiles import is_utf8, read_json, text_lines


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_with_their_numbers(tmp_path, mark, end):
    path = tmp_path / "x.txt"
    path.write_bytes(mark + end.join([b"# first", b"  one two\t", b"", b"\t# x", "dr\u00fcei".encode()]))
    assert list(text_lines(path)) == [(2, "one two"), (5, "dr\u00fcei")]


def test_bytes_that_are_not_utf8_can_be_told(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"fine\nbr\xfccke\n")
    assert [is_utf8(text) for _, text in text_lines(path)] == [True, False]


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt: cannot be read \(No such file"):
        list(text_lines(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("read", [read_json, lambda path: list(text_lines(path))])
def test_wide_encodings_are_refused(tmp_path, encoding, read):
    path = tmp_path / "x.json"
    path.write_bytes('{"a": 1}'.encode(encoding))
    with pytest.raises(DataError, match=r"^\S+x\.json: is UTF-16 or UTF-32 text, or no text at all; save it as UTF-8$"):
        read(path)


@pytest.mark.parametrize("content", [b'{"a": [1, 2]}', b'\xef\xbb\xbf{"a": [1, 2]}', b'{"a":\r[1,\r2]}\r'])
def test_json_with_a_mark_and_any_line_ends(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("content", "line"),
    [(b'{\n"a": 1,\n}', 3), (b"{\n// no\n}", 2), (b'{"a":\n\n[1 2]}', 3), (b"", 1), (b'{"a": 1', 1), (b"{'a': 1}", 1)],
)
def test_the_line_that_is_no_json_is_named(tmp_path, content, line):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.json: not readable as JSON .*; correct line {line} ") as error:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)
