"""open_weights: every format by its content, folders and shards, and .npz archives."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc.api.sampling import given_conditions
from latentc.diagnostics import DiagnosticError
from latentc.files.named import open_arrays, read_condition
from latentc.files.shipped import codes
from latentc.weights import Array, Expr, Stored, materialise, open_weights, write_safetensors


def code_of(call: Any) -> str:
    with pytest.raises(DiagnosticError) as caught:
        call()
    assert caught.value.diagnostics[0].code in codes()
    return caught.value.diagnostics[0].code


ARRAYS = {
    "f": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    "c": np.arange(6, dtype=np.int64).reshape(2, 3),
    "big": np.arange(3, dtype=">f4"),
    "s": np.array(2.5),
    "e": np.zeros((0, 2), np.float16),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "m.npz", **ARRAYS)
    ours = open_weights(tmp_path / "m.npz")
    assert list(ours) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert ours[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(materialise(ours[name]), array)
    assert isinstance(ours["c"], Stored) == (save is np.savez)


def test_npz_that_holds_no_numbers(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    np.savez(tmp_path / "m.npz", a=np.array([Evil()], dtype=object))
    assert code_of(lambda: open_weights(tmp_path / "m.npz")) == "E0405"
    assert not mark.exists()
    np.savez(tmp_path / "m.npz", a=np.array(["text"]))
    assert code_of(lambda: open_weights(tmp_path / "m.npz")) == "E0405"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_truncated_or_flipped_is_a_diagnostic(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "m.npz"
    save(path, a=np.ones((2, 3), np.float32), b=np.asfortranarray(np.ones((3, 2))))
    data = path.read_bytes()
    rng = random.Random(0)
    for length in range(0, len(data), 5):
        path.write_bytes(data[:length])
        assert code_of(lambda: open_weights(path)) in ("E0403", "E0408")
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :])
        try:
            for expr in open_weights(path).values():
                materialise(expr)
        except DiagnosticError as error:
            assert error.diagnostics[0].code.startswith("E04")


def tensors(**values: float) -> dict[str, Expr]:
    return {name: Array(np.full(3, value, np.float32)) for name, value in values.items()}


def sharded(folder: Path, where: dict[str, str]) -> Path:
    write_safetensors(folder / "model-1.safetensors", tensors(a=1, b=2))
    write_safetensors(folder / "model-2.safetensors", tensors(c=3))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


WHERE = {"c": "model-2.safetensors", "a": "model-1.safetensors", "b": "model-1.safetensors"}


def test_shards(tmp_path: Path) -> None:
    index = sharded(tmp_path, WHERE)
    for path in (index, tmp_path):
        ours = open_weights(path)
        assert {name: float(materialise(expr)[0]) for name, expr in ours.items()} == {"a": 1, "b": 2, "c": 3}
    index.unlink()
    assert set(open_weights(tmp_path)) == {"a", "b", "c"}
    write_safetensors(tmp_path / "model-3.safetensors", tensors(a=4))
    assert code_of(lambda: open_weights(tmp_path)) == "E0406"


def test_names_from_jax_have_dots_in_shards_too(tmp_path: Path) -> None:
    where = {"a/kernel": "model-1.safetensors", "b/kernel": "model-2.safetensors"}
    for name, file in where.items():
        write_safetensors(tmp_path / file, tensors(**{name: 1}))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert set(open_weights(index)) == {"a.kernel", "b.kernel"}
    assert set(open_weights(tmp_path / "model-1.safetensors")) == {"a.kernel"}
    index.unlink()
    assert set(open_weights(tmp_path)) == {"a.kernel", "b.kernel"}


@pytest.mark.parametrize(
    "where",
    [
        {**WHERE, "d": "model-1.safetensors"},
        {**WHERE, "a": "model-9.safetensors"},
        {**WHERE, "a": "../model-1.safetensors"},
        {**WHERE, "a": "/etc/passwd"},
        {**WHERE, "a": "model.safetensors.index.json"},
        {**WHERE, "a": 3},
        {**WHERE, "a": ""},
    ],
)
def test_shards_that_do_not_fit_together(tmp_path: Path, where: dict[str, str]) -> None:
    assert code_of(lambda: open_weights(sharded(tmp_path, where))) in ("E0406", "E0409")


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": []}', "{" * 50000])
def test_a_malformed_index(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.index.json").write_text(text)
    assert code_of(lambda: open_weights(tmp_path)) == "E0406"


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m.pt", tensors(a=1))
    np.savez(tmp_path / "m", a=np.ones(2))
    (tmp_path / "m.npz").rename(tmp_path / "m.safetensors")
    assert list(open_weights(tmp_path / "m.pt")) == ["a"]
    assert list(open_weights(tmp_path / "m.safetensors")) == ["a"]


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(40), b"GGUF" + bytes(40), b"x" * 100, b"\x80"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.bin").write_bytes(content)
    assert code_of(lambda: open_weights(tmp_path / "m.bin")) == "E0403"


def test_a_single_npy_and_an_empty_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.ones(2))
    assert code_of(lambda: open_weights(tmp_path / "m.npy")) == "E0403"
    np.savez(tmp_path / "m.npz")
    assert code_of(lambda: open_weights(tmp_path / "m.npz")) == "E0403"
    assert code_of(lambda: open_weights(tmp_path / "none")) == "E0401"


def test_folders(tmp_path: Path) -> None:
    assert code_of(lambda: open_weights(tmp_path)) == "E0403"
    np.savez(tmp_path / "m.npz", a=np.ones(2))
    assert list(open_weights(tmp_path)) == ["a"]
    write_safetensors(tmp_path / "m.safetensors", tensors(a=1))
    assert code_of(lambda: open_weights(tmp_path)) == "E0403"


def test_a_key_in_a_flat_file_is_a_prefix(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "m", {**tensors(**{"ema.a": 1, "ema.b": 2}), **tensors(**{"model.a": 3})})
    assert set(open_weights(tmp_path / "m", "ema")) == {"a", "b"}
    assert set(open_weights(tmp_path / "m")) == {"ema.a", "ema.b", "model.a"}
    assert code_of(lambda: open_weights(tmp_path / "m", "other")) == "E0409"


def test_big_files_are_only_opened(tmp_path: Path) -> None:
    """A header of a 4 GB model in a sparse file: opening reads the header alone."""
    size = 1 << 32
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "m").open("wb") as file:
        file.write(io.BytesIO(len(header).to_bytes(8, "little") + header).getvalue())
        os.truncate(file.fileno(), file.tell() + size)
    expr = open_weights(tmp_path / "m")["w"]
    assert materialise(expr)[-1] == 0


def zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


def test_npz_with_a_header_that_is_no_python(tmp_path: Path) -> None:
    """NumPy's own reader ends in a TokenError here."""
    for header in (b"(" * 3000, b"{'descr': [[[[", b"\\\n" * 50, b"1" * 5000):
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
        zipped(tmp_path / "m.npz", content)
        assert code_of(lambda: open_weights(tmp_path / "m.npz")) == "E0408"
        (tmp_path / "x.npy").write_bytes(content)
        assert code_of(lambda: read_condition(tmp_path / "x.npy", "x")) == "E0403"


def test_a_text_stands_for_itself_unless_it_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dog").mkdir()
    given = {"coherence": "0.75", "mel": np.ones(2), "folder": "dog", "long": "a dog " * 100}
    assert given_conditions(given) == given
    for missing in ("x.npy", "a dog " * 100 + ".txt"):
        assert code_of(lambda name=missing: given_conditions({"mel": name})) == "E0401"
    with Path("0.75").open("wb") as file:
        np.save(file, np.float32(0.5))
    assert given_conditions(given)["coherence"] == 0.5
    assert code_of(lambda: read_condition("0.25", "queries")) == "E0401"


def test_npz_that_would_fill_the_memory(tmp_path: Path) -> None:
    """512 MB of zeros in 0.5 MB: opening reads headers alone, and unpacking is a failure if an entry is too short."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 27,)})
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        entry.write(header.getvalue())
        for _ in range(32):
            entry.write(bytes(1 << 24))
    tracemalloc.start()
    assert open_weights(path)["x"].shape == open_arrays(path)["x"].shape == (1 << 27,)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    """Version 2 of the format has headers of up to 4 GB."""
    header = b"\x93NUMPY\x02\x00" + (1 << 26).to_bytes(4, "little")
    with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header + bytes(1 << 26))
    tracemalloc.start()
    assert code_of(lambda: open_weights(tmp_path / "m.npz")) == "E0408"
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "?", "<i8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 4, 5)])
def test_compressed_arrays_are_those_that_were_written(tmp_path: Path, shape: Any, kind: str, order: Any) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 2, shape), kind, order=order)
    np.savez_compressed(tmp_path / "m.npz", x=array)
    found = materialise(open_weights(tmp_path / "m.npz")["x"])
    assert found.dtype == array.dtype.newbyteorder("=") and np.array_equal(found, array)
    assert np.array_equal(np.asarray(open_arrays(tmp_path / "m.npz")["x"]), array)


def test_a_compressed_array_that_is_damaged_or_changed_is_found_when_it_is_read(tmp_path: Path) -> None:
    path, array = tmp_path / "m.npz", np.random.default_rng(0).standard_normal(1000)
    np.savez_compressed(path, x=array)
    opened, content = open_weights(path), path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert code_of(lambda: materialise(opened["x"])) == "E0408"
    np.savez_compressed(path, x=array[1:])
    assert code_of(lambda: materialise(opened["x"])) == "E0408"
    path.unlink()
    assert code_of(lambda: materialise(opened["x"])) == "E0401"


@pytest.mark.parametrize("way", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, way: int) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4))
    with zipfile.ZipFile(tmp_path / "m.npz", "w", way) as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    assert code_of(lambda: open_weights(tmp_path / "m.npz")) == "E0408"


def test_compressed_arrays_of_zeros_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "m.npz", x=np.zeros((1 << 22,), np.float32))
    assert materialise(open_weights(tmp_path / "m.npz")["x"]).shape == (1 << 22,)


def test_npy_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(4, np.float32))
    content = (tmp_path / "x.npy").read_bytes()
    assert b"(4,), " in content
    (tmp_path / "x.npy").write_bytes(content.replace(b"(4,), ", b"(9999,)"))
    assert code_of(lambda: read_condition(tmp_path / "x.npy", "x")) == "E0403"
    (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:20])
    assert code_of(lambda: read_condition(tmp_path / "y.npy", "x")) == "E0403"
