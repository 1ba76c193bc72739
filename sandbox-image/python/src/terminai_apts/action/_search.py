"""Searching a folder by name and by content, within limits, without ever leaving it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from terminai_apts.action._ignore import IgnoreRule, parse_rules, translate, verdict
from terminai_apts.errors import InvalidArgument, NotAFile

_LONGEST_LINE = 64 * 1024
"""Bytes of a line that are searched and of which a match is cut: beyond is machine-made text."""

_LONGEST_EXCERPT = 400
"""Characters of a matching line that are returned."""


@dataclass(frozen=True)
class Match:
    """A file that was found, and where: line and column count from 1, and are ``None`` by name."""

    path: str
    line: int | None = None
    column: int | None = None
    text: str | None = None


@dataclass
class SearchResult:
    """What a search found, and whether it saw everything."""

    matches: list[Match] = field(default_factory=list)
    complete: bool = True
    """``False`` when a limit ended the search."""
    stopped_by: str | None = None
    """Which limit: ``count`` or ``time``."""
    skipped: list[str] = field(default_factory=list)
    """What could not be read or was too large, with the reason."""


def search_files(
    root: str | os.PathLike[str],
    *,
    glob: str = "**",
    content: str | None = None,
    regex: bool = False,
    ignore_case: bool = False,
    use_gitignore: bool = False,
    include_hidden: bool = True,
    max_depth: int | None = None,
    max_matches: int = 1000,
    max_file_bytes: int = 8 * 1024 * 1024,
    max_seconds: float = 30.0,
) -> SearchResult:
    """Finds files below ``root``.

    ``glob`` is matched against the path below ``root`` (``**/`` for any depth; without a slash it is
    matched against the name alone). ``content`` is looked for in each line, literally or as a regular
    expression. Links are listed by name but never followed, so nothing outside ``root`` is read.
    Paths in the result are relative to ``root`` and sorted by folder.
    """
    top = Path(root)
    if not top.is_dir():
        raise NotAFile(f"{root}: not a folder")
    if max_matches < 1:
        raise InvalidArgument(f"max_matches is {max_matches}; it has to be at least 1")
    name_pattern = _compile_glob(glob, ignore_case)
    line_pattern = _compile_content(content, regex, ignore_case)
    deadline = time.monotonic() + max_seconds
    result = SearchResult()

    for relative, entry in _walk(top, max_depth, use_gitignore, include_hidden, result.skipped):
        if time.monotonic() > deadline:
            return _stopped(result, "time")
        if not name_pattern.fullmatch(relative):
            continue
        if line_pattern is None:
            found: Iterator[Match] = iter([Match(relative)])
        else:
            found = _search_content(entry, relative, line_pattern, max_file_bytes, deadline, result)
        for match in found:
            if len(result.matches) >= max_matches:
                return _stopped(result, "count")
            result.matches.append(match)
        if result.stopped_by:
            return result
    return result


def _stopped(result: SearchResult, limit: str) -> SearchResult:
    result.complete = False
    result.stopped_by = limit
    return result


def _compile_glob(glob: str, ignore_case: bool) -> re.Pattern[str]:
    if not glob:
        raise InvalidArgument("glob is empty; '**' finds everything")
    prefix = "" if "/" in glob or glob == "**" else "(?:.*/)?"
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    try:
        return re.compile(prefix + translate(glob), flags)
    except re.error as error:
        raise InvalidArgument(f"glob {glob!r}: {error}") from error


def _compile_content(content: str | None, regex: bool, ignore_case: bool) -> re.Pattern[bytes] | None:
    if content is None:
        return None
    if not content:
        raise InvalidArgument("content is empty; leave it out to find files by name")
    source = content.encode() if regex else re.escape(content.encode())
    try:
        return re.compile(source, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise InvalidArgument(f"regular expression {content!r}: {error}") from error


def _walk(
    top: Path, max_depth: int | None, use_gitignore: bool, include_hidden: bool, skipped: list[str]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields files and links below ``top``, folder by folder, names in order."""
    pending: list[tuple[str, tuple[tuple[str, list[IgnoreRule]], ...]]] = [("", ())]
    while pending:
        folder, rules = pending.pop()
        try:
            with os.scandir(top / folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(f"{folder or '.'}: {error.strerror}")
            continue
        if use_gitignore:
            rules = _with_rules_of(top / folder, folder, rules)
        below = []
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if not include_hidden and entry.name.startswith("."):
                continue
            if use_gitignore and (entry.name == ".git" or _ignored(rules, relative, is_folder)):
                continue
            if is_folder:
                if max_depth is None or relative.count("/") + 1 < max_depth:
                    below.append((relative, rules))
            else:
                yield relative, entry
        pending.extend(reversed(below))


def _with_rules_of(
    path: Path, folder: str, rules: tuple[tuple[str, list[IgnoreRule]], ...]
) -> tuple[tuple[str, list[IgnoreRule]], ...]:
    source = path / ".gitignore"
    try:
        if source.is_symlink():
            return rules
        text = source.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return rules
    return (*rules, (folder, parse_rules(text)))


def _ignored(rules: tuple[tuple[str, list[IgnoreRule]], ...], relative: str, is_folder: bool) -> bool:
    # The deepest .gitignore decides; a folder that is left out is never entered, so nothing below
    # it can be taken back in.
    for folder, own in reversed(rules):
        decided = verdict(own, relative[len(folder) + 1 :] if folder else relative, is_folder)
        if decided is not None:
            return decided
    return False


def _search_content(
    entry: os.DirEntry[str],
    relative: str,
    pattern: re.Pattern[bytes],
    max_file_bytes: int,
    deadline: float,
    result: SearchResult,
) -> Iterator[Match]:
    if not entry.is_file(follow_symlinks=False):
        return
    try:
        if entry.stat(follow_symlinks=False).st_size > max_file_bytes:
            result.skipped.append(f"{relative}: larger than {max_file_bytes} bytes")
            return
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        result.skipped.append(f"{relative}: {error.strerror}")
        return
    with os.fdopen(descriptor, "rb") as file:
        number = 0
        fresh = True
        while line := file.readline(_LONGEST_LINE):
            number += fresh
            if time.monotonic() > deadline:
                _stopped(result, "time")
                return
            if fresh and number == 1 and b"\0" in line:
                return
            hit = pattern.search(line)
            if hit and fresh:
                text = line.rstrip(b"\r\n").decode("utf-8", "replace")[:_LONGEST_EXCERPT]
                column = len(line[: hit.start()].decode("utf-8", "replace")) + 1
                yield Match(relative, number, column, text)
            fresh = line.endswith(b"\n")
