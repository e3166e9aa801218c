"""The safetensors reader and writer against the safetensors package, and against damage of every kind."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from latentc.diagnostics import DiagnosticError
from latentc.weights import Array, Expr, Stored, cast, concatenate, materialise, open_weights, transpose
from latentc.weights.expr import DTYPES, dtype_name
from latentc.weights.safetensors import NAMES, read_safetensors, write_safetensors


def code_of(call: Any) -> str:
    with pytest.raises(DiagnosticError) as caught:
        call()
    return caught.value.diagnostics[0].code


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(5, np.int8),
        "c": np.zeros((), np.float16),
    }
    safetensors.numpy.save_file(tensors, path)
    return path


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")
kinds = st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8, np.bool_])
shapes = st.lists(st.integers(0, 4), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, st.tuples(kinds, shapes), max_size=6), st.dictionaries(names, names, max_size=2))
def test_round_trip_through_both_implementations(
    tmp_path_factory: pytest.TempPathFactory, model: dict[str, Any], metadata: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    rng = np.random.default_rng(len(model))
    arrays = {name: rng.integers(0, 2, shape).astype(kind) for name, (kind, shape) in model.items()}
    spans = write_safetensors(folder / "ours", {name: Array(array) for name, array in arrays.items()}, metadata)
    raw = (folder / "ours").read_bytes()
    theirs = dict(safetensors.deserialize(raw))  # strict: gaps and overlaps are errors
    assert set(theirs) == set(arrays)
    for name, array in arrays.items():
        assert NAMES[theirs[name]["dtype"]] == dtype_name(array.dtype)
        assert theirs[name]["shape"] == list(array.shape)
        assert bytes(theirs[name]["data"]) == array.tobytes()
        offset, nbytes = spans[name]
        assert raw[offset : offset + nbytes] == array.tobytes()
        assert offset % array.dtype.itemsize == 0
    assert (8 + int.from_bytes(raw[:8], "little")) % 64 == 0
    with safetensors.safe_open(folder / "ours", "numpy") as file:
        assert (file.metadata() or {}) == metadata
    safetensors.numpy.save_file(arrays, folder / "theirs")
    for file in ("ours", "theirs"):
        ours = read_safetensors(folder / file)
        assert set(ours) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(materialise(ours[name]), array)


def test_every_dtype_of_the_format(tmp_path: Path) -> None:
    tensors = {name: Array(np.ones(3).astype(DTYPES[name])) for name in NAMES.values()}
    write_safetensors(tmp_path / "m", tensors)
    for name, expr in read_safetensors(tmp_path / "m").items():
        assert expr.dtype == DTYPES[name]
        np.testing.assert_array_equal(materialise(expr), tensors[name].array)


def test_a_file_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_safetensors(tmp_path / "m", {"w": Array(array)})
    write_safetensors(tmp_path / "m", {"t": transpose(read_safetensors(tmp_path / "m")["w"], (1, 0))})
    np.testing.assert_array_equal(materialise(read_safetensors(tmp_path / "m")["t"]), array.T)


def test_truncated_anywhere_is_a_diagnostic(whole: Path) -> None:
    data = whole.read_bytes()
    for length in range(len(data)):
        whole.write_bytes(data[:length])
        assert code_of(lambda: read_safetensors(whole)) == "E0404", length
    whole.write_bytes(data + b"\0")
    assert code_of(lambda: read_safetensors(whole)) == "E0404"


def test_a_flipped_header_byte_never_gives_a_traceback(whole: Path) -> None:
    data = whole.read_bytes()
    rng = random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    for position in range(header):
        for value in {rng.randrange(256), data[position] ^ 1, data[position] ^ 0x80, ord("9"), ord("}"), ord('"')}:
            whole.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                for expr in open_weights(whole).values():
                    materialise(expr)
            except DiagnosticError as error:
                assert error.diagnostics[0].code in ("E0404", "E0405")


def header_file(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"[]", "E0404"),
        (b"{", "E0404"),
        (b"\xff\xfe", "E0404"),
        (b"[" * 50000, "E0404"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "E0404"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "E0404"),
        ({"a": 1}, "E0404"),
        ({"__metadata__": 1, "a": ENTRY}, "E0404"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "E0404"),
        ({"a": {**ENTRY, "dtype": "F31"}}, "E0405"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [3]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [-2]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [True, 2]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [2.0]}}, "E0404"),
        ({"a": {**ENTRY, "shape": 2}}, "E0404"),
        ({"a": {**ENTRY, "shape": [1 << 70]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [1 << 61, 8]}}, "E0404"),
        ({"a": {**ENTRY, "data_offsets": [0, 8, 8]}}, "E0404"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "E0404"),
        ({"a": {**ENTRY, "data_offsets": [-8, 0]}}, "E0404"),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [1], "data_offsets": [4, 8]}}, "E0404"),
        ({"a": {**ENTRY, "shape": [1], "data_offsets": [0, 4]}}, "E0404"),
        ({"a": ENTRY, "b": ENTRY}, "E0404"),
    ],
)
def test_a_malformed_header_is_a_diagnostic(tmp_path: Path, header: Any, code: str) -> None:
    path = header_file(tmp_path / "m.safetensors", header)
    assert code_of(lambda: read_safetensors(path)) == code


def test_a_header_of_absurd_length(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    assert code_of(lambda: read_safetensors(path)) == "E0404"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert code_of(lambda: read_safetensors(tmp_path / "none")) == "E0401"
    assert code_of(lambda: read_safetensors(tmp_path)) == "E0402"


def test_a_dtype_the_format_lacks(tmp_path: Path) -> None:
    assert code_of(lambda: write_safetensors(tmp_path / "m", {"a": Array(np.zeros(2, np.complex128))})) == "E0405"
    assert code_of(lambda: write_safetensors(tmp_path / "m", {"__metadata__": Array(np.zeros(2))})) == "E0405"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m", {"w": Array(np.ones(3, np.float32))})
    before = (tmp_path / "m").read_bytes()
    gone = Stored(tmp_path / "gone", 0, 4, np.dtype(np.float32), (1,))
    assert code_of(lambda: write_safetensors(tmp_path / "m", {"w": Array(np.ones(3)), "x": gone})) == "E0413"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == before
    assert code_of(lambda: write_safetensors(tmp_path / "no" / "m", {})) == "E0412"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    # A limit on the size of files fails a write in the middle as a full disk does.
    program = f"""
import resource, numpy as np
from latentc.diagnostics import DiagnosticError
from latentc.weights import Array, write_safetensors
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_safetensors({str(tmp_path / "m")!r}, {{"a": Array(np.zeros(1 << 20, np.float32))}})
except DiagnosticError as error:
    print(error.diagnostics[0].code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "E0412"
    assert list(tmp_path.iterdir()) == []


def test_streaming_needs_memory_for_blocks_not_for_the_model(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    size = 96 << 20
    with source.open("wb") as file:
        os.truncate(file.fileno(), 4 * size)
    f32 = np.dtype(np.float32)
    parts: list[Expr] = [Stored(source, i * size, size, f32, (size // 4096, 1024)) for i in range(4)]
    tensors = {
        "plain": parts[0],
        "joined": concatenate([parts[3], parts[1]], 0),
        "turned": transpose(parts[2], (1, 0)),
        "half": cast(transpose(parts[1], (1, 0)), "bf16"),
    }
    del tensors["joined"]  # written below: four tensors at once would take the disk, not the memory
    tracemalloc.start()
    write_safetensors(tmp_path / "out", tensors)
    write_safetensors(tmp_path / "out", {"joined": concatenate([parts[3], parts[1]], 0)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A cast of a transposed tensor holds that one tensor's result at most; the rest pass in blocks.
    assert peak < size
    assert read_safetensors(tmp_path / "out")["joined"].nbytes == 2 * size


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name, age in ((".w.safetensors.0a.tmp", 7200), (".w.safetensors.0b.tmp", 0), (".other.0c.tmp", 7200)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_safetensors(tmp_path / "w.safetensors", {"a": Array(np.zeros(2, np.float32))})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"w.safetensors", ".w.safetensors.0b.tmp", ".other.0c.tmp"}
