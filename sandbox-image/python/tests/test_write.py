import os
import stat

import pytest

from terminai_apts.action.files import read_file, write_file
from terminai_apts.errors import InvalidArgument, NotAFile


def test_writes_text_and_bytes(tmp_path):
    assert write_file(tmp_path / "a", "grüße") == 7
    assert read_file(tmp_path / "a") == "grüße"
    write_file(tmp_path / "a", b"\0\xff")
    assert read_file(tmp_path / "a", mode="bytes") == b"\0\xff"


def test_parents_are_made_only_on_request(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "x/y/a", "1")
    write_file(tmp_path / "x/y/a", "1", create_parents=True)
    assert (tmp_path / "x/y/a").read_text() == "1"


def test_append_adds_and_creates(tmp_path):
    write_file(tmp_path / "a", "1", append=True)
    write_file(tmp_path / "a", "2", append=True)
    assert (tmp_path / "a").read_text() == "12"


def test_permissions_are_kept_given_or_of_the_mask(tmp_path):
    old = os.umask(0o027)
    try:
        write_file(tmp_path / "a", "new")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o640
    write_file(tmp_path / "a", "run me", mode=0o755)
    write_file(tmp_path / "a", "again")
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_set_id_bits_stay_only_with_their_owner(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    os.chown(tmp_path / "a", 1000, 1001)
    os.chmod(tmp_path / "a", 0o6755)
    write_file(tmp_path / "a", "new")
    found = os.stat(tmp_path / "a")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o6755)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    write_file(tmp_path / "a", "newer")
    found = os.stat(tmp_path / "a")
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o755)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_file(tmp_path / "a", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_reader_keeps_the_old_file_while_it_is_replaced(tmp_path):
    write_file(tmp_path / "a", "old")
    with open(tmp_path / "a") as reader:
        write_file(tmp_path / "a", "new")
        assert reader.read() == "old"
    assert (tmp_path / "a").read_text() == "new"


def test_a_link_stays_a_link(tmp_path):
    write_file(tmp_path / "a", "old")
    os.symlink("a", tmp_path / "link")
    write_file(tmp_path / "link", "new")
    assert os.readlink(tmp_path / "link") == "a"
    assert (tmp_path / "a").read_text() == "new"


def test_folders_and_bad_modes_are_refused(tmp_path):
    with pytest.raises(NotAFile):
        write_file(tmp_path, "x")
    with pytest.raises(InvalidArgument):
        write_file(tmp_path / "a", "x", mode=0o10000)
    assert os.listdir(tmp_path) == []
