import os

import pytest

from terminai_apts.action.files import read_file
from terminai_apts.errors import InvalidArgument, NotAFile, NotText, TooLarge


def test_text_keeps_line_ends(tmp_path):
    (tmp_path / "a").write_bytes("grüße\r\nzwei\n".encode())
    assert read_file(tmp_path / "a") == "grüße\r\nzwei\n"


def test_bytes_come_as_they_are(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    assert read_file(tmp_path / "a", mode="bytes") == bytes(range(256))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(1, 1, "one\n"), (2, 3, "two\nthree"), (2, None, "two\nthree"), (None, 2, "one\ntwo\n"), (4, 9, "")],
)
def test_line_ranges_are_inclusive(tmp_path, start, end, expected):
    (tmp_path / "a").write_text("one\ntwo\nthree")
    assert read_file(tmp_path / "a", start_line=start, end_line=end) == expected


def test_a_range_reads_past_large_lines_before_it(tmp_path):
    (tmp_path / "a").write_text("x" * 1000 + "\nwanted\n")
    assert read_file(tmp_path / "a", start_line=2, max_bytes=10) == "wanted\n"


def test_size_limit_is_exact(tmp_path):
    (tmp_path / "a").write_text("12345")
    assert read_file(tmp_path / "a", max_bytes=5) == "12345"
    with pytest.raises(TooLarge, match="larger than 4 bytes"):
        read_file(tmp_path / "a", max_bytes=4)
    with pytest.raises(TooLarge, match="exceed 4 bytes"):
        read_file(tmp_path / "a", max_bytes=4, start_line=1)


def test_bad_text_names_the_offset(tmp_path):
    (tmp_path / "a").write_bytes(b"abc\xff")
    with pytest.raises(NotText, match="0xff at offset 3"):
        read_file(tmp_path / "a")
    assert read_file(tmp_path / "a", encoding="latin-1") == "abcÿ"


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "lines"},
        {"encoding": "klingon"},
        {"max_bytes": -1},
        {"start_line": 0},
        {"start_line": 3, "end_line": 2},
        {"mode": "bytes", "start_line": 1},
    ],
)
def test_bad_arguments_are_told(tmp_path, arguments):
    (tmp_path / "a").write_text("text")
    with pytest.raises(InvalidArgument):
        read_file(tmp_path / "a", **arguments)


def test_only_regular_files_are_read_and_pipes_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises((NotAFile, IsADirectoryError)):
            read_file(path)


def test_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(NotAFile):
            read_file(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
