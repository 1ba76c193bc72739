"""``python3 -m terminai_apts CALL``: one call, arguments as a JSON object on standard input.

The answer is one JSON object on standard output: ``{"ok": true, "result": ...}``, or ``{"ok": false,
"error": {"code": ..., "message": ...}}`` and exit code 1. Bytes travel as ``{"base64": "..."}``.
``python3 -m terminai_apts --list`` names the calls and their arguments.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

from terminai_apts import __version__
from terminai_apts.action.cleanup import clean_folder, scan_folder
from terminai_apts.action.files import read_file, search_files, write_file
from terminai_apts.errors import AptsError, InvalidArgument
from terminai_apts.model import ObjectTableLabels


def version() -> dict[str, str]:
    """The versions of this package and of Python."""
    return {"terminai_apts": __version__, "python": ".".join(map(str, sys.version_info[:3]))}


CALLS: dict[str, Callable[..., Any]] = {
    "clean_folder": clean_folder,
    "read_file": read_file,
    "scan_folder": scan_folder,
    "search_files": search_files,
    "version": version,
    "write_file": write_file,
}


def main(arguments: list[str]) -> int:
    """Serves one call and returns the exit code."""
    if arguments == ["--list"]:
        print(json.dumps({name: str(inspect.signature(call)) for name, call in CALLS.items()}, indent=2))
        return 0
    try:
        if len(arguments) != 1:
            raise InvalidArgument(f"one call is expected: {', '.join(CALLS)} (or --list)")
        answer = {"ok": True, "result": serve(arguments[0], sys.stdin.buffer.read())}
    except AptsError as error:
        answer = {"ok": False, "error": {"code": error.code, "message": str(error)}}
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        code = type(error).__name__
        answer = {"ok": False, "error": {"code": code, "message": f"{name}{error.strerror or error}"}}
    json.dump(answer, sys.stdout)
    sys.stdout.write("\n")
    return 0 if answer["ok"] else 1


def serve(name: str, request: bytes) -> Any:
    """Runs the call ``name`` with the arguments in ``request`` and returns what JSON can carry."""
    call = CALLS.get(name)
    if call is None:
        raise InvalidArgument(f"no such call: {name!r}; there are {', '.join(CALLS)}")
    try:
        arguments = json.loads(request) if request.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"standard input is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise InvalidArgument("arguments are expected as a JSON object")
    arguments = {key: _decode(key, value) for key, value in arguments.items()}
    try:
        inspect.signature(call).bind(**arguments)
    except TypeError as error:
        raise InvalidArgument(f"{name}: {error}") from error
    try:
        return encode(call(**arguments))
    except (TypeError, ValueError, OverflowError) as error:
        # Of a wrong type, or a path with a NUL, or a number that no call of the system takes.
        raise InvalidArgument(f"{name}: {error}") from error


def _decode(key: str, value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"base64"}:
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"{key}: not base64: {error}") from error
    if key == "labels" and isinstance(value, list):
        try:
            return tuple(ObjectTableLabels(label) for label in value)
        except ValueError as error:
            raise InvalidArgument(f"labels: {error}") from error
    return value


def encode(value: Any) -> Any:
    """Turns a result into what JSON can carry."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: encode(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
