"""What ``.gitignore`` files leave out (gitignore(5), the pattern format)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class IgnoreRule:
    """One line of a ``.gitignore``."""

    pattern: re.Pattern[str]
    negated: bool
    folders_only: bool


def parse_rules(text: str) -> list[IgnoreRule]:
    """Reads the rules of one ``.gitignore``; lines that are no pattern are passed over."""
    rules = []
    for line in text.splitlines():
        rule = _parse_line(line)
        if rule is not None:
            rules.append(rule)
    return rules


def verdict(rules: list[IgnoreRule], relative: str, is_folder: bool) -> bool | None:
    """Whether the rules of one folder leave out ``relative`` (a path below that folder).

    The last rule that fits decides; ``None`` when none does.
    """
    for rule in reversed(rules):
        if rule.folders_only and not is_folder:
            continue
        if rule.pattern.fullmatch(relative):
            return not rule.negated
    return None


def _parse_line(line: str) -> IgnoreRule | None:
    # Trailing blanks count only when quoted with a backslash.
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    if negated:
        line = line[1:]
    folders_only = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    anchored = "/" in line
    line = line.lstrip("/")
    try:
        body = translate(line)
        prefix = "" if anchored else "(?:.*/)?"
        return IgnoreRule(re.compile(prefix + body, re.DOTALL), negated, folders_only)
    except re.error:
        return None


def translate(glob: str) -> str:
    """Turns a glob with ``*``, ``?``, ``[...]`` and ``**`` into a regular expression over paths."""
    out: list[str] = []
    at = 0
    while at < len(glob):
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            out.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at) and at + 2 == len(glob) and (at == 0 or glob[at - 1] == "/"):
            out.append(".*")
            at += 2
        elif glob[at] == "*":
            out.append("[^/]*")
            at += 1
        elif glob[at] == "?":
            out.append("[^/]")
            at += 1
        elif glob[at] == "[":
            piece, at = _translate_class(glob, at)
            out.append(piece)
        elif glob[at] == "\\" and at + 1 < len(glob):
            out.append(re.escape(glob[at + 1]))
            at += 2
        else:
            out.append(re.escape(glob[at]))
            at += 1
    return "".join(out)


def _translate_class(glob: str, at: int) -> tuple[str, int]:
    start = at + 1
    negated = start < len(glob) and glob[start] in "!^"
    if negated:
        start += 1
    # A bracket right after the opening one is a member, not the end.
    end = glob.find("]", start + 1)
    if end < 0:
        return re.escape("["), at + 1
    members = glob[start:end].replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&")
    members = members.replace("]", "\\]").replace("^", "\\^")
    return f"(?!/)[{'^' if negated else ''}{members}]", end + 1
