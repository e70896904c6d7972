import pytest

from distwar_gs.files import durable_write, replacing


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(RuntimeError), replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_durable_write_makes_folders_and_replaces(tmp_path):
    file = tmp_path / "folder" / "file"
    for content in (b"old", b"new"):
        with durable_write(file) as stream:
            stream.write(content)
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]
