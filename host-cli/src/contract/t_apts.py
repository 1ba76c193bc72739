import importlib
import inspect

import terminai_apts
import terminai_apts.action.cleanup as cleanup
import terminai_apts.action.files as files
from terminai_apts.model import ObjectTableLabels

names = {
    files: ("read_file", "search_files", "write_file"),
    cleanup: ("classify_file", "clean_folder", "scan_folder"),
}
for module, functions in names.items():
    for name in functions:
        assert callable(getattr(module, name, None)), f"{module.__name__} has no {name}"
dry_run = inspect.signature(cleanup.clean_folder).parameters["dry_run"]
assert dry_run.default is True, "a clean-up is no dry run by default"
labels = [label.value for label in ObjectTableLabels]
assert labels == ["KEEP", "DELETE", "TRANSIT", "ARCHIVE", "UNKNOWN"], f"the labels are {labels}"
for name in ("apts", "apts.model", "apts.action.files", "apts.action.cleanup"):
    importlib.import_module(name)
print(terminai_apts.__version__)
