"""Reading a file, whole or by lines, within a limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Literal, overload

from terminai_apts.errors import InvalidArgument, NotAFile, NotText, TooLarge

DEFAULT_MAX_BYTES = 16 * 1024 * 1024
"""What a call reads at most unless it is told otherwise: a context is smaller than this."""


@overload
def read_file(
    path: str | os.PathLike[str],
    *,
    mode: Literal["text"] = "text",
    encoding: str = "utf-8",
    start_line: int | None = None,
    end_line: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> str: ...


@overload
def read_file(
    path: str | os.PathLike[str],
    *,
    mode: Literal["bytes"],
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> bytes: ...


def read_file(
    path: str | os.PathLike[str],
    *,
    mode: Literal["text", "bytes"] = "text",
    encoding: str = "utf-8",
    start_line: int | None = None,
    end_line: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> str | bytes:
    """Reads a regular file.

    ``start_line`` and ``end_line`` count from 1 and are both included; lines outside the range cost
    no memory. Line ends are kept as they are in the file.

    Raises ``TooLarge`` when more than ``max_bytes`` would be returned, ``NotText`` (with the offset
    of the first bad byte) when the bytes are not text in ``encoding``, ``NotAFile`` for folders,
    devices and pipes, and ``OSError`` as the system gives it.
    """
    if mode not in ("text", "bytes"):
        raise InvalidArgument(f"mode is 'text' or 'bytes', not {mode!r}")
    if max_bytes < 0:
        raise InvalidArgument(f"max_bytes is {max_bytes}; it cannot be negative")
    ranged = start_line is not None or end_line is not None
    if ranged and mode == "bytes":
        raise InvalidArgument("lines are for mode 'text'; read bytes whole")

    with _open_regular(Path(path)) as file:
        if ranged:
            start = 1 if start_line is None else start_line
            data = _read_lines(file, path, start, end_line, max_bytes)
        else:
            data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise TooLarge(
                    f"{path}: larger than {max_bytes} bytes; read a range of lines, or raise max_bytes"
                )
    return data if mode == "bytes" else decode(data, encoding, path)


def decode(data: bytes, encoding: str, path: str | os.PathLike[str]) -> str:
    """Turns bytes into text, or says exactly where they are not text."""
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise InvalidArgument(f"no such encoding: {encoding}") from error
    except UnicodeDecodeError as error:
        raise NotText(
            f"{path}: not {encoding} text: byte {data[error.start]:#04x} at offset {error.start}: "
            f"{error.reason}; read it with mode='bytes', or name its encoding"
        ) from error


def _open_regular(path: Path) -> BinaryIO:
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(f"{path}: not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _read_lines(
    file: BinaryIO,
    path: str | os.PathLike[str],
    start: int,
    end: int | None,
    max_bytes: int,
) -> bytes:
    if start < 1:
        raise InvalidArgument(f"start_line is {start}; lines count from 1")
    if end is not None and end < start:
        raise InvalidArgument(f"end_line {end} is before start_line {start}")
    kept: list[bytes] = []
    size = 0
    number = 1
    while end is None or number <= end:
        # Bounded, so that a file that is one endless line costs no more than the limit.
        piece = file.readline(max_bytes + 1)
        if not piece:
            break
        if number >= start:
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(f"{path}: lines {start} to {end or 'the end'} exceed {max_bytes} bytes")
            kept.append(piece)
        if piece.endswith(b"\n"):
            number += 1
    return b"".join(kept)
