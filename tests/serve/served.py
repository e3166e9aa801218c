"""A real server in a thread of this process, and bundles whose engine can be held up."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import onnx
import uvicorn

from latentc_runtime.bundle import open_bundle, write_manifest
from latentc_runtime.manifest import EngineCall, ProgramEntry
from latentc_runtime.serve.app import App
from latentc_runtime.serve.options import Options
from latentc_runtime.serve.run import create_app
from latentc_runtime.sources import Condition, ConditionSource, Input

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
import tiny_bundles

NAMES = ("zero", "one", "two", "three", "four, quattuor", "five", "six", "seven", "eight", "nine")
MEL = Condition("mel", "array", (1, 2, 2), "f32", ("channel", "height", "width"))


@contextlib.contextmanager
def running(app: App, **client: object) -> Iterator[httpx.Client]:
    """The application behind a socket of 127.0.0.1, and a client of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30, **client) as web:  # type: ignore[arg-type]
            eventually(lambda: web.get("/readyz").status_code == 200)
            yield web
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def served(*bundles: object, **options: object) -> Iterator[tuple[httpx.Client, App]]:
    """A server of these bundles."""
    app = create_app(list(map(str, bundles)), Options(**options))  # type: ignore[arg-type]
    with running(app) as web:
        yield web, app


def eventually(holds, seconds: float = 60.0) -> None:
    """Wait until `holds()` is true."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never became true"
        time.sleep(0.01)


class Gate:
    """Holds up every run of a pipeline's engines while it is closed; counts the runs."""

    def __init__(self, pipeline) -> None:
        self.open, self.runs, self.sizes = threading.Event(), 0, []
        self.open.set()
        for engine in pipeline._engines.values():
            engine.run = self._held(engine.run)

    def _held(self, run):
        def held(inputs, *rest):
            self.runs += 1
            first = next(iter(inputs.values()))
            self.sizes.append((first.shape() if callable(first.shape) else first.shape)[0])
            assert self.open.wait(120)
            return run(inputs, *rest)

        return held


def mel_bundle(folder: Path) -> Path:
    """Noise plus a condition that is an array."""
    folder.mkdir()
    t = tiny_bundles
    x, mel, y = (t.value(name, t.F, "B", *t.SHAPE) for name in ("x", "mel", "y"))
    t.save(folder / "sample.onnx", [onnx.helper.make_node("Add", ["x", "mel"], ["y"])], [x, mel], [y])
    call = EngineCall("engine", "sample.onnx", {"x": "x", "mel": "mel"}, {"out": "y"})
    inputs = (t.INPUTS[0], Input("mel", "f32", ("B", *t.SHAPE), ConditionSource("mel")))
    entry = ProgramEntry("sample", 1, "toy", "unroll", None, "a test", inputs, (), (call,))
    return t.write(folder, [entry], t.PICTURE, ["sample.onnx"], conditions=(MEL,), settings=())


def two_step_counts(folder: Path) -> Path:
    """The host bundle in 3 steps and, as another program of that name, in 2; its classes have names."""
    t = tiny_bundles
    t.host_bundle(folder)
    manifest = open_bundle(folder).manifest
    (three,) = manifest.programs
    (loop,) = three.program
    two = replace(three, steps=2, program=(replace(loop, trip=2, tables={"a": loop.tables["a"][:2]}),))  # type: ignore[union-attr]
    named = replace(manifest.conditions[0], names=NAMES)
    write_manifest(folder, replace(manifest, programs=(three, two), conditions=(named,)))
    return folder


def many_classes(folder: Path) -> Path:
    """The host bundle with 40 classes, whose names have synonyms."""
    tiny_bundles.host_bundle(folder)
    manifest = open_bundle(folder).manifest
    names = tuple(f"thing {i}, res {i}" for i in range(40))
    write_manifest(folder, replace(manifest, conditions=(replace(manifest.conditions[0], classes=40, names=names),)))
    return folder


def events(response: httpx.Response) -> Iterator[tuple[str, dict]]:
    """Server-sent events as (name, data)."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
