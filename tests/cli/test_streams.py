"""Terminals and pipes of any encoding, and standard input that is closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def latentc(*args: str, encoding: str, shell: str = "") -> subprocess.CompletedProcess[bytes]:
    command = " ".join((sys.executable, "-m", "latentc", *args)) + shell
    return subprocess.run(command, shell=True, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})


def test_signs_that_an_encoding_lacks_are_written_as_escapes() -> None:
    explained = latentc("show", "digits_dit", encoding="ascii")
    assert explained.returncode == 0, explained.stderr
    assert "\\u2026" in explained.stdout.decode("ascii")


def test_the_schema_is_json_in_every_encoding() -> None:
    printed = latentc("schema", encoding="ascii")
    assert printed.returncode == 0, printed.stderr
    assert json.loads(printed.stdout)["title"] == "latentc spec"


def test_closed_standard_input() -> None:
    refused = latentc("check", "-", encoding="utf-8", shell=" <&-")
    assert refused.returncode == 1
    assert b"error[E0401]" in refused.stderr and b"closed" in refused.stderr
