import base64
import json
import os
import subprocess
import sys

import pytest

from terminai_apts.__main__ import CALLS


def python_m(argument, payload=b""):
    # The child finds the package where this process did, installed or not.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "terminai_apts", argument]
    return subprocess.run(command, input=payload, capture_output=True, env=environment)


def call(name, arguments=None, raw=None):
    payload = raw if raw is not None else json.dumps(arguments or {}).encode()
    done = python_m(name, payload)
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["ok"] else 1), done.stderr
    return answer


def test_every_call_is_listed():
    done = python_m("--list")
    assert done.returncode == 0 and set(json.loads(done.stdout)) == set(CALLS)


def test_write_read_search_and_clean(tmp_path):
    path = str(tmp_path / "a.tmp")
    assert call("write_file", {"path": path, "content": "grüße\n"})["result"] == 8
    assert call("read_file", {"path": path})["result"] == "grüße\n"
    found = call("search_files", {"root": str(tmp_path), "content": "grü"})["result"]
    assert found["matches"] == [{"path": "a.tmp", "line": 1, "column": 1, "text": "grüße"}]
    cleaned = call("clean_folder", {"root": str(tmp_path), "labels": ["TRANSIT"], "dry_run": False})
    assert cleaned["result"]["deleted"] == ["a.tmp"]


def test_bytes_travel_as_base64(tmp_path):
    data = {"base64": base64.b64encode(b"\0\xff").decode()}
    path = str(tmp_path / "a")
    call("write_file", {"path": path, "content": data})
    assert call("read_file", {"path": path, "mode": "bytes"})["result"] == data


@pytest.mark.parametrize(
    ("name", "raw", "code"),
    [
        ("nothing", b"{}", "invalid-argument"),
        ("read_file", b"{", "invalid-argument"),
        ("read_file", b"[]", "invalid-argument"),
        ("read_file", b"{}", "invalid-argument"),
        ("read_file", b'{"path": 1.5}', "invalid-argument"),
        ("read_file", b'{"path": "/none"}', "FileNotFoundError"),
        ("read_file", b'{"path": "/a\\u0000b"}', "invalid-argument"),
        pytest.param("read_file", b"[" * 200_000, "invalid-argument", id="too-deep"),
        ("read_file", b'{"path": "/etc/passwd", "max_bytes": 1000000000000000000000}', "invalid-argument"),
        ("write_file", b'{"path": "/none/x", "content": "a", "encoding": "none"}', "invalid-argument"),
        ("write_file", b'{"path": "/none/x", "content": "\\u00fc", "encoding": "ascii"}', "invalid-argument"),
        ("write_file", b'{"path": "/none/x", "content": "\\ud800"}', "invalid-argument"),
        ("write_file", b'{"path": "/none/x", "content": 5}', "invalid-argument"),
        ("write_file", b'{"path": "/tmp", "content": {"base64": "*"}}', "invalid-argument"),
        ("clean_folder", b'{"root": "/tmp", "labels": ["ALL"]}', "invalid-argument"),
    ],
)
def test_every_failure_is_an_answer(name, raw, code):
    assert call(name, raw=raw)["error"]["code"] == code


def test_versions_are_told():
    assert call("version")["result"]["python"].startswith("3.")
