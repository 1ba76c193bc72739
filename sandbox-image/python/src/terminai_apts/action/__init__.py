"""What an agent can do: files and clean-up."""

from terminai_apts.action.cleanup import (
    classify_file,
    clean_folder,
    cleanup_downloads,
    scan_downloads,
    scan_folder,
)
from terminai_apts.action.files import read_file, search_files, write_file

__all__ = [
    "classify_file",
    "clean_folder",
    "cleanup_downloads",
    "read_file",
    "scan_downloads",
    "scan_folder",
    "search_files",
    "write_file",
]
