"""Errors that a caller can tell apart by their ``code``."""

from __future__ import annotations


class AptsError(Exception):
    """A call could not be done. ``code`` is stable; the message is for people."""

    code = "failed"


class InvalidArgument(AptsError):
    """An argument has a value that the call does not take."""

    code = "invalid-argument"


class TooLarge(AptsError):
    """A file is larger than the caller's limit."""

    code = "too-large"


class NotText(AptsError):
    """A file's bytes are not text in the encoding that was asked for."""

    code = "not-text"


class OutsideRoot(AptsError):
    """A path leads out of the folder that the call is bound to."""

    code = "outside-root"


class NotAFile(AptsError):
    """A path names something that is not a regular file."""

    code = "not-a-file"
