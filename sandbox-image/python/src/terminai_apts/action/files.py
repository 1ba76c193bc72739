"""Reading, writing and searching files."""

from terminai_apts.action._read import read_file
from terminai_apts.action._search import Match, SearchResult, search_files
from terminai_apts.action._write import write_file

__all__ = ["Match", "SearchResult", "read_file", "search_files", "write_file"]
