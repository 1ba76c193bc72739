"""Writing a file so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from terminai_apts.errors import InvalidArgument, NotAFile


def write_file(
    path: str | os.PathLike[str],
    content: str | bytes,
    *,
    encoding: str = "utf-8",
    append: bool = False,
    create_parents: bool = False,
    mode: int | None = None,
) -> int:
    """Writes ``content`` and returns how many bytes that were.

    A whole write is atomic: it goes to a temporary file in the same folder, is flushed to the disk
    and then takes the old file's place; an interrupted one leaves the old file as it was. A link is
    followed, so that the file it names is replaced and the link stays. The old file's permissions
    are kept unless ``mode`` gives others.

    ``append`` adds to the file in one write instead, and creates it if need be.
    """
    data = _encode(content, encoding)
    if mode is not None and not 0 <= mode <= 0o7777:
        raise InvalidArgument(f"mode {mode:#o} is not a file mode (0 to 0o7777)")
    target = Path(os.path.realpath(path))
    if create_parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    existing = _existing(target)
    if append:
        _append(target, data, mode)
    else:
        _replace(target, data, mode, existing)
    return len(data)


def _encode(content: str | bytes, encoding: str) -> bytes:
    if not isinstance(content, str):
        # Else a number would be so many zeros.
        return bytes(memoryview(content))
    try:
        return content.encode(encoding)
    except LookupError as error:
        raise InvalidArgument(f"no such encoding: {encoding}") from error
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"content: not {encoding} text: {error.object[error.start]!a} at offset {error.start}: "
            f"{error.reason}"
        ) from error


def _existing(target: Path) -> os.stat_result | None:
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(f"{target}: exists and is not a regular file")
    return found


def _append(target: Path, data: bytes, mode: int | None) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(target, flags, 0o666)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        if mode is not None:
            os.fchmod(descriptor, mode)


def _replace(target: Path, data: bytes, mode: int | None, existing: os.stat_result | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:200]}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if existing is not None:
                _keep_owner(descriptor, existing)
            # Last, as giving a file away takes its set-id bits.
            os.fchmod(descriptor, _mode_of_new(mode, existing, os.fstat(descriptor)))
            os.fsync(descriptor)
        os.replace(name, target)
    except BaseException:
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass
        raise
    _sync_folder(target.parent)


def _mode_of_new(mode: int | None, existing: os.stat_result | None, new: os.stat_result) -> int:
    if mode is not None:
        return mode
    if existing is not None:
        kept = stat.S_IMODE(existing.st_mode)
        is_same = (new.st_uid, new.st_gid) == (existing.st_uid, existing.st_gid)
        # A program must not run as another user than the one who made it so.
        return kept if is_same else kept & ~(stat.S_ISUID | stat.S_ISGID)
    # What open(2) would have given it: mkstemp made it 0600.
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _keep_owner(descriptor: int, existing: os.stat_result) -> None:
    current = os.fstat(descriptor)
    if (current.st_uid, current.st_gid) != (existing.st_uid, existing.st_gid):
        try:
            os.fchown(descriptor, existing.st_uid, existing.st_gid)
        except PermissionError:
            # Only root may give a file away. The new file is then the writer's, as with any editor.
            pass


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
