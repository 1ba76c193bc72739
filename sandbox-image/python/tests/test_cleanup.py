import os

import pytest

from terminai_apts.action.cleanup import (
    classify_file,
    clean_folder,
    cleanup_downloads,
    scan_downloads,
    scan_folder,
)
from terminai_apts.action import cleanup as module
from terminai_apts.errors import InvalidArgument, NotAFile, OutsideRoot
from terminai_apts.model import ObjectTableLabels as Labels


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "downloads"
    (root / "sub").mkdir(parents=True)
    for name in ("a.tmp", "b.zip", "c.csv", "d.xyz", "e.log", "sub/f.part"):
        (root / name).write_text("12345")
    return root


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("x.crdownload", Labels.TRANSIT),
        ("x.tar.gz", Labels.ARCHIVE),
        ("x.CSV", Labels.KEEP),
        ("notes.txt~", Labels.DELETE),
        (".DS_Store", Labels.DELETE),
        ("mystery", Labels.UNKNOWN),
    ],
)
def test_labels_by_kind(tmp_path, name, label):
    (tmp_path / name).touch()
    assert classify_file(tmp_path / name) is label


def test_what_is_no_regular_file_is_unknown(tmp_path):
    os.symlink("/etc/passwd", tmp_path / "a.tmp")
    (tmp_path / "b.tmp").mkdir()
    for name in ("a.tmp", "b.tmp", "none.tmp"):
        assert classify_file(tmp_path / name) is Labels.UNKNOWN


def test_scan_stays_in_the_folder_unless_recursive(folder):
    assert [item.path for item in scan_folder(folder)] == ["a.tmp", "b.zip", "c.csv", "d.xyz", "e.log"]
    assert scan_folder(folder, recursive=True)[-1].path == "sub/f.part"
    with pytest.raises(InvalidArgument, match="more than 2 files"):
        scan_folder(folder, max_files=2)


def test_dry_run_is_the_default_and_deletes_nothing(folder):
    report = clean_folder(folder, recursive=True)
    assert report.dry_run and report.deleted == []
    assert [item.path for item in report.proposed] == ["a.tmp", "e.log", "sub/f.part"]
    assert (folder / "a.tmp").exists()


def test_deleting_takes_only_the_labels_asked_for(folder):
    report = clean_folder(folder, labels=(Labels.TRANSIT,), recursive=True, dry_run=False)
    assert report.deleted == ["a.tmp", "sub/f.part"] and report.freed_bytes == 10
    assert sorted(os.listdir(folder)) == ["b.zip", "c.csv", "d.xyz", "e.log", "sub"]


def test_links_are_neither_followed_nor_deleted(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.tmp").touch()
    os.symlink(outside, folder / "link")
    os.symlink(outside / "x.tmp", folder / "link.tmp")
    clean_folder(folder, recursive=True, dry_run=False)
    assert (outside / "x.tmp").exists() and (folder / "link.tmp").is_symlink()


def test_a_folder_swapped_for_a_link_does_not_lead_out(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f.part").touch()
    (folder / "sub/f.part").unlink()
    (folder / "sub").rmdir()
    os.symlink(outside, folder / "sub")
    with pytest.raises(OSError):
        module._delete_below(folder, "sub/f.part")
    with pytest.raises(OutsideRoot):
        module._delete_below(folder, "../outside/f.part")
    assert (outside / "f.part").exists()


def test_keep_is_never_deleted_and_roots_are_checked(folder):
    with pytest.raises(InvalidArgument):
        clean_folder(folder, labels=(Labels.KEEP,))
    with pytest.raises(InvalidArgument):
        clean_folder("/")
    with pytest.raises(NotAFile):
        clean_folder(folder / "c.csv")


def test_older_callers_are_served(folder):
    assert scan_downloads(folder)["TRANSIT"] == [str(folder / "a.tmp")]
    with pytest.warns(DeprecationWarning):
        assert cleanup_downloads(folder, dry_run=False)["ARCHIVE"] == [str(folder / "b.zip")]
    assert (folder / "a.tmp").exists()


def test_the_old_package_name_is_the_same_module():
    import apts.action.files
    import apts.model

    import terminai_apts.action.files

    assert apts.model.ObjectTableLabels is Labels
    assert apts.action.files is terminai_apts.action.files
