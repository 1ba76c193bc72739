"""The old name of ``terminai_apts``: ``import apts.model`` goes on working."""

import sys

from terminai_apts import __version__, action, errors, model
from terminai_apts.action import cleanup, files

for _name, _module in {
    "action": action,
    "action.cleanup": cleanup,
    "action.files": files,
    "errors": errors,
    "model": model,
}.items():
    sys.modules[f"{__name__}.{_name}"] = _module

__all__ = ["__version__", "action", "errors", "model"]
