"""The names that host, agent and sandbox share."""

from __future__ import annotations

from enum import Enum


class ObjectTableLabels(str, Enum):
    """What a clean-up proposes to do with a file."""

    KEEP = "KEEP"
    """The user's own work: documents, data, source."""

    DELETE = "DELETE"
    """Can be made again, or is of no use: caches, logs, editors' backup copies."""

    TRANSIT = "TRANSIT"
    """On its way: a download or a copy that was not finished."""

    ARCHIVE = "ARCHIVE"
    """Packed: an archive or a disk image, to be moved rather than read."""

    UNKNOWN = "UNKNOWN"
    """Nothing is known about it, so nothing is proposed."""
