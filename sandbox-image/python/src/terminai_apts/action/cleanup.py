"""Clean-up: look at a folder, label what is in it, propose; delete only when told so.

``scan_folder`` and ``clean_folder`` never touch anything outside their root: links are labelled as links and
removed as links, never followed.
"""

from __future__ import annotations

import os
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from terminai_apts.errors import InvalidArgument, NotAFile, OutsideRoot
from terminai_apts.model import ObjectTableLabels

_BY_SUFFIX: dict[str, ObjectTableLabels] = {
    **dict.fromkeys(
        (".tmp", ".temp", ".crdownload", ".part", ".partial", ".download", ".swp", ".filepart"),
        ObjectTableLabels.TRANSIT,
    ),
    **dict.fromkeys(
        (
            ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar", ".iso",
            ".deb", ".rpm", ".dmg", ".img", ".whl",
        ),
        ObjectTableLabels.ARCHIVE,
    ),
    **dict.fromkeys((".log", ".bak", ".old", ".pyc", ".pyo", ".orig", ".dmp"), ObjectTableLabels.DELETE),
    **dict.fromkeys(
        (
            ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".ods", ".sqlite", ".db", ".pdf",
            ".md", ".rst", ".docx", ".odt", ".tex", ".ipynb", ".py", ".rs", ".c", ".h", ".cpp", ".go",
            ".js", ".ts", ".java", ".sh", ".toml", ".yaml", ".yml", ".xml", ".html", ".css", ".sql",
            ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".mp3", ".wav", ".flac", ".mp4", ".mkv",
            ".key", ".pem", ".gpg", ".kdbx",
        ),
        ObjectTableLabels.KEEP,
    ),
}

_BY_NAME: dict[str, ObjectTableLabels] = {
    ".DS_Store": ObjectTableLabels.DELETE,
    "Thumbs.db": ObjectTableLabels.DELETE,
    "desktop.ini": ObjectTableLabels.DELETE,
    "core": ObjectTableLabels.DELETE,
    "Makefile": ObjectTableLabels.KEEP,
    "Dockerfile": ObjectTableLabels.KEEP,
    "README": ObjectTableLabels.KEEP,
    "LICENSE": ObjectTableLabels.KEEP,
}


@dataclass(frozen=True)
class Labelled:
    """A file and what is proposed for it. ``path`` is relative to the root."""

    path: str
    label: ObjectTableLabels
    size: int


@dataclass
class CleanupReport:
    """What a clean-up proposes, and what it did."""

    root: str
    dry_run: bool
    proposed: list[Labelled] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    failed: list[str] = field(default_factory=list)


def classify_file(path: str | os.PathLike[str]) -> ObjectTableLabels:
    """Labels a file by its kind: its name and its ending. Nothing but a regular file is known."""
    path = Path(path)
    try:
        found = os.lstat(path)
    except OSError:
        return ObjectTableLabels.UNKNOWN
    if not stat.S_ISREG(found.st_mode):
        return ObjectTableLabels.UNKNOWN
    return label_of_name(path.name)


def label_of_name(name: str) -> ObjectTableLabels:
    """Labels a file's name."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.endswith("~"):
        return ObjectTableLabels.DELETE
    return _BY_SUFFIX.get(os.path.splitext(name)[1].lower(), ObjectTableLabels.UNKNOWN)


def scan_folder(root: str | os.PathLike[str], *, recursive: bool = False, max_files: int = 100_000) -> list[Labelled]:
    """Labels the files in ``root`` (and below it, when ``recursive``), in the order of their paths."""
    top = _folder(root)
    found: list[Labelled] = []
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(top / folder) as listing:
            for entry in listing:
                relative = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if recursive:
                        pending.append(relative)
                    continue
                if len(found) >= max_files:
                    raise InvalidArgument(f"{root}: more than {max_files} files; raise max_files")
                size = entry.stat(follow_symlinks=False).st_size
                regular = entry.is_file(follow_symlinks=False)
                label = label_of_name(entry.name) if regular else ObjectTableLabels.UNKNOWN
                found.append(Labelled(relative, label, size))
    return sorted(found, key=lambda item: item.path)


def clean_folder(
    root: str | os.PathLike[str],
    *,
    labels: tuple[ObjectTableLabels, ...] = (ObjectTableLabels.DELETE, ObjectTableLabels.TRANSIT),
    recursive: bool = False,
    dry_run: bool = True,
) -> CleanupReport:
    """Proposes to delete what carries one of ``labels``, and does so only with ``dry_run=False``.

    A file is deleted through its folder's descriptor, opened without following links: nothing that
    somebody swaps in while this runs can lead the deletion out of ``root``.
    """
    if ObjectTableLabels.KEEP in labels:
        raise InvalidArgument("KEEP is never deleted; leave it out of labels")
    top = _folder(root)
    report = CleanupReport(root=str(top), dry_run=dry_run)
    report.proposed = [item for item in scan_folder(top, recursive=recursive) if item.label in labels]
    if dry_run:
        return report
    for item in report.proposed:
        try:
            _delete_below(top, item.path)
        except (OSError, OutsideRoot) as error:
            report.failed.append(f"{item.path}: {error}")
        else:
            report.deleted.append(item.path)
            report.freed_bytes += item.size
    return report


def scan_downloads(downloads_dir: str | os.PathLike[str]) -> dict[str, list[str]]:
    """The paths in a folder by label: the form that older callers know."""
    top = _folder(downloads_dir)
    by_label: dict[str, list[str]] = {label.value: [] for label in ObjectTableLabels}
    for item in scan_folder(top):
        by_label[item.label.value].append(str(top / item.path))
    return by_label


def cleanup_downloads(downloads_dir: str | os.PathLike[str], dry_run: bool = True) -> dict[str, list[str]]:
    """Deprecated: the same as ``scan_downloads``. It never deletes; ``clean_folder`` does."""
    del dry_run
    warnings.warn("cleanup_downloads only scans: use scan_folder or clean_folder", DeprecationWarning, stacklevel=2)
    return scan_downloads(downloads_dir)


def _folder(root: str | os.PathLike[str]) -> Path:
    top = Path(os.path.realpath(root))
    if not top.is_dir():
        raise NotAFile(f"{root}: not a folder")
    if top == Path(top.anchor):
        raise InvalidArgument(f"{root}: the file system's root is not a folder to clean up")
    return top


def _delete_below(top: Path, relative: str) -> None:
    *folders, name = relative.split("/")
    if name in ("", ".", "..") or ".." in folders:
        raise OutsideRoot(f"{relative}: leads out of {top}")
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(folder, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
