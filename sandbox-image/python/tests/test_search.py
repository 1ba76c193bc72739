import os

import pytest

from terminai_apts.action.files import search_files
from terminai_apts.errors import InvalidArgument, NotAFile


def paths(result):
    return [match.path for match in result.matches]


@pytest.fixture
def tree(tmp_path):
    for name, text in {
        "a.py": "import os\nprint('hello')\n",
        "b.txt": "Hello there\nnothing\nhello again\n",
        "sub/c.py": "x = 1  # HELLO\n",
        "sub/deep/d.py": "",
        ".hidden/e.py": "hello",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_glob_without_a_slash_matches_names_at_any_depth(tree):
    assert paths(search_files(tree, glob="*.py")) == ["a.py", ".hidden/e.py", "sub/c.py", "sub/deep/d.py"]
    assert paths(search_files(tree, glob="*.py", include_hidden=False)) == ["a.py", "sub/c.py", "sub/deep/d.py"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("sub/*.py", ["sub/c.py"]),
        ("sub/**/*.py", ["sub/c.py", "sub/deep/d.py"]),
        ("sub/**", ["sub/c.py", "sub/deep/d.py"]),
        ("[ab].*", ["a.py", "b.txt"]),
        ("[!a].py", [".hidden/e.py", "sub/c.py", "sub/deep/d.py"]),
        ("?.txt", ["b.txt"]),
        ("a.p[y", []),
    ],
)
def test_globs(tree, glob, expected):
    assert paths(search_files(tree, glob=glob)) == expected


def test_content_gives_line_column_and_text(tree):
    found = search_files(tree, content="hello", glob="*.txt").matches
    assert [(m.path, m.line, m.column, m.text) for m in found] == [("b.txt", 3, 1, "hello again")]
    both = search_files(tree, content="hello", glob="*.txt", ignore_case=True).matches
    assert [m.line for m in both] == [1, 3]


def test_literal_and_regular_expressions_differ(tree):
    assert paths(search_files(tree, content="hel+o", glob="a.py")) == []
    assert paths(search_files(tree, content=r"hel+o", regex=True, glob="a.py")) == ["a.py"]
    with pytest.raises(InvalidArgument, match="regular expression"):
        search_files(tree, content="(", regex=True)


def test_gitignore_is_honoured_on_request(tree):
    (tree / ".gitignore").write_text("# comment\n*.txt\n!b.txt\nsub/deep/\n/a.py\n.hidden\n.gitignore\n")
    (tree / "sub/x.txt").write_text("")
    assert paths(search_files(tree, use_gitignore=True)) == ["b.txt", "sub/c.py"]
    (tree / "sub/.gitignore").write_text("c.*\n!x.txt\n")
    assert paths(search_files(tree, use_gitignore=True)) == ["b.txt", "sub/x.txt"]
    assert "sub/deep/d.py" in paths(search_files(tree))


def test_limits_end_the_search_and_are_told(tree):
    limited = search_files(tree, max_matches=2)
    assert (len(limited.matches), limited.complete, limited.stopped_by) == (2, False, "count")
    assert paths(search_files(tree, glob="*.py", max_depth=1)) == ["a.py"]
    late = search_files(tree, max_seconds=-1)
    assert (late.complete, late.stopped_by) == (False, "time")
    large = search_files(tree, content="hello", max_file_bytes=6)
    assert any("a.py: larger than 6 bytes" in reason for reason in large.skipped)


def test_links_are_never_followed(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.py").write_text("hello")
    os.symlink(outside, tree / "folder-link")
    os.symlink(outside / "secret.py", tree / "link.py")
    assert "link.py" not in paths(search_files(tree, content="hello"))
    assert not any("secret" in path for path in paths(search_files(tree)))
    os.symlink("..", tree / "sub/loop")
    assert search_files(tree).complete


def test_binary_files_and_endless_lines_are_survived(tree):
    (tree / "bin").write_bytes(b"\0hello")
    (tree / "long").write_bytes(b"a" * 200_000 + b"hello\nhello\n")
    found = search_files(tree, content="hello", glob="long").matches
    assert [m.line for m in found] == [2]
    assert paths(search_files(tree, content="hello", glob="bin")) == []


def test_unreadable_things_are_reported_not_fatal(tree):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tree / "b.txt").chmod(0)
    assert any("b.txt" in reason for reason in search_files(tree, content="hello").skipped)


def test_root_has_to_be_a_folder(tree):
    with pytest.raises(NotAFile):
        search_files(tree / "a.py")
    with pytest.raises(InvalidArgument):
        search_files(tree, max_matches=0)
