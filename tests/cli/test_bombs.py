"""Small files that unpack to gigabytes: every command refuses them, or reads only what it needs, in bounded memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc.weights import materialise, open_weights

HUGE = 1 << 27  # bytes that a bomb unpacks to
ROOM = 48 << 20  # bytes that a command may take beyond what it takes for a small file

# Runs each case first with a file that fits, then with the bomb, and prints status, codes and growth of the latter.
CHILD = """
import contextlib, io, json, re, resource, sys
from pathlib import Path
from latentc.cli import run

def number(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

found, warm = {}, []
for name, small, bomb in json.loads(sys.argv[1]):
    if small not in warm:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            assert run(small) == 0, (name, err.getvalue())
        warm.append(small)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    before, hard = number("VmRSS"), resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (number("VmData") + int(sys.argv[2]), hard))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        status = run(bomb)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    codes = sorted(set(re.findall(r"error\\[(\\w+)\\]", err.getvalue())))
    found[name] = [status, codes, number("VmHWM") - before, err.getvalue()]
print(json.dumps(found))
"""


def bomb(path: Path, huge: Mapping[str, tuple[str, tuple[int, ...]]], rest: Mapping[str, Any]) -> Path:
    """An .npz with arrays of zeros of these dtypes and shapes, compressed, and with the arrays of `rest`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (dtype, shape) in huge.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
            with archive.open(f"{name}.npy", "w") as entry:
                entry.write(header.getvalue())
                left = int(np.prod(shape)) * np.dtype(dtype).itemsize
                while left > 0:
                    entry.write(bytes(min(left, 1 << 24)))
                    left -= 1 << 24
        for name, array in rest.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by Linux's means")
def test_small_files_do_not_fill_the_memory(tiny: Any, tmp_path: Path) -> None:
    side = int((HUGE // 8) ** 0.5)
    weights = {name: materialise(expr) for name, expr in open_weights(tiny.weights).items()}
    with np.load(tiny.inputs) as held:
        inputs = dict(held)
    np.savez(tmp_path / "w.npz", **weights)
    np.savez(tmp_path / "noise.npz", x=inputs["x"])
    pictures = {"arr_0": np.zeros((20, 8, 8, 1), np.uint8)}
    np.savez(tmp_path / "pictures.npz", arr_1=np.zeros(20, np.int64), **pictures)
    np.savez(tmp_path / "class.npz", value=np.array([1, 2]))
    largest = max(weights, key=lambda name: weights[name].nbytes)
    rest = {name: array for name, array in weights.items() if name != largest}
    floats = ("<f4", (HUGE // 256, 1, 8, 8))
    bombs = {
        "w": bomb(tmp_path / "w-bomb.npz", {largest: ("<f4", (HUGE // 64, 16))}, rest),
        "more": bomb(tmp_path / "more-bomb.npz", {"unused": ("<f4", (HUGE // 4,))}, weights),
        "noise": bomb(tmp_path / "noise-bomb.npz", {"x": floats}, {}),
        "labels": bomb(tmp_path / "labels-bomb.npz", {"arr_1": ("<i8", (HUGE // 8,))}, pictures),
        "sigma": bomb(tmp_path / "sigma-bomb.npz", {"sigma": ("<f8", (side, side))}, {"mu": np.zeros(side)}),
        "class": bomb(tmp_path / "class-bomb.npz", {"value": ("<i8", (2, HUGE // 16))}, {}),
        "inputs": bomb(tmp_path / "inputs-bomb.npz", {"t": ("<f4", (HUGE // 4,))}, {n: inputs[n] for n in "xy"}),
    }
    assert all(path.stat().st_size < 2 << 20 for path in bombs.values())

    compile = ["compile", tiny.spec, "--no-run", "--rebuild", "-o", "out", "-w"]
    sample = ["sample", tiny.bundle, "--class", "1,2", "-o", "a.png"]
    forward = ["forward", tiny.spec, "-w", tiny.weights, "-o", "o.npz", "-i"]
    evaluate = ["evaluate", tiny.bundle, "--count", "20", "--metric", "fd", "--features", "principal", "--reference"]
    given = ["sample", tiny.bundle, "-o", "a.png", "--given"]
    small = {name: tmp_path / f"{name}.npz" for name in ("w", "noise", "class", "pictures")}
    cases = [
        ("compile", [*compile, small["w"]], [*compile, bombs["w"]]),
        ("unused tensor", [*compile, small["w"]], [*compile, bombs["more"]]),
        ("import", ["specs"], ["import", bombs["w"], "-o", "imported"]),
        ("noise", [*sample, "--noise", small["noise"]], [*sample, "--noise", bombs["noise"]]),
        ("given", [*given, f"class={small['class']}"], [*given, f"class={bombs['class']}"]),
        ("forward", [*forward, tiny.inputs], [*forward, bombs["inputs"]]),
        ("reference", [*evaluate, small["pictures"]], [*evaluate, bombs["sigma"]]),
        ("labels", [*evaluate, small["pictures"]], [*evaluate, bombs["labels"]]),
    ]
    line = json.dumps([[name, [*map(str, one)], [*map(str, two)]] for name, one, two in cases])
    child = [sys.executable, "-c", CHILD, line, str(ROOM)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(child, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, (status, codes, growth, text) in found.items():
        assert growth < ROOM, (name, growth)
        assert "E0710" not in codes and "E0901" not in codes, (name, text)
        assert status == 1, (name, text)
