"""The server as a process: it starts, logs JSON lines, finishes open requests after SIGTERM and ends with status 0."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from served import two_step_counts

import latentc_runtime
from latentc.cli import run

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def process(
    folder: Path, *args: object, module: str = "latentc_runtime.serve"
) -> Iterator[tuple[str, subprocess.Popen]]:
    """A server process that was given any free port: (its address, the process)."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'compiler'}:{ROOT / 'runtime'}", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", *module.split(), *map(str, args), "--port", "0"]
    streams = {"stdout": subprocess.PIPE, "stderr": (folder / "log").open("w"), "text": True}
    child = subprocess.Popen(line, cwd=folder, env=env, **streams)  # type: ignore[call-overload]
    try:
        yield child.stdout.readline().split()[-1], child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def until_ready(address: str) -> None:
    """Asks until the models are ready; the address answers from the moment it is printed."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if httpx.get(f"{address}/readyz", timeout=20).status_code == 200:
            return
        time.sleep(0.05)
    raise AssertionError("it never became ready")


def test_an_open_request_is_finished_before_the_end(tmp_path: Path) -> None:
    bundle = two_step_counts(tmp_path / "b")
    # A request waits two seconds for company: long enough for the signal to come first.
    with process(tmp_path, f"m={bundle}", "--delay", 2) as (address, child):
        until_ready(address)
        with httpx.stream(
            "POST",
            f"{address}/v1/models/m/sample",
            json={"classes": [3], "seeds": 9, "format": "events"},
            headers={"x-request-id": "mine"},
            timeout=20,
        ) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: accepted"
            child.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-3] == "event: done"
        assert child.wait(20) == 0
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    names = [line["event"] for line in log]
    assert names == ["listening", "model ready", "draining", "request", "stopped"]
    request = log[3]
    assert (request["request"], request["status"], request["samples"], request["model"]) == ("mine", 200, 1, "m")
    assert request["queued"] >= 0 and all(line["time"].endswith("Z") and line["level"] == "info" for line in log)


def test_the_verb_serves_and_ctrl_c_is_a_regular_end(tmp_path: Path) -> None:
    bundle = two_step_counts(tmp_path / "b")
    with process(tmp_path, bundle, module="latentc serve") as (address, child):
        until_ready(address)
        answer = httpx.get(f"{address}/v1/models/tiny/sample?classes=1&seeds=4&steps=2&format=npz")
        direct = latentc_runtime.load(bundle, "cpu").sample([1], 4, steps=2)
        assert np.array_equal(np.load(io.BytesIO(answer.content))["samples"], direct)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0


def test_a_signal_that_comes_at_once_is_not_lost(tmp_path: Path) -> None:
    bundle = two_step_counts(tmp_path / "b")
    with process(tmp_path, bundle) as (_, child):
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0


def test_what_keeps_a_server_from_starting_is_a_diagnostic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = two_step_counts(tmp_path / "b")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", str(bundle), "--port", port]) == 1
    assert "error[E0619]: cannot listen on 127.0.0.1" in capsys.readouterr().err
    assert run(["serve", str(tmp_path / "nothing")]) == 1
    assert "error[E0601]" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve", str(bundle)]) == 1
    err = capsys.readouterr().err
    assert "error[E0706]" in err and 'pip install "latentc[serve]"' in err
