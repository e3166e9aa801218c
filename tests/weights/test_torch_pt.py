"""The .pt reader against torch.save, without running anything that a pickle asks for."""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import io
import os
import pickle
import random
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from latentc.diagnostics import DiagnosticError
from latentc.weights import Array, Stored, materialise, open_weights, pickled
from latentc.weights.expr import DTYPE_OF_TORCH
from latentc.weights.torch_pt import read_torch

torch = pytest.importorskip("torch")


def code_of(call: Any) -> str:
    with pytest.raises(DiagnosticError) as caught:
        call()
    return caught.value.diagnostics[0].code


def numpy_of(tensor: Any) -> np.ndarray:
    dtype = DTYPE_OF_TORCH[str(tensor.dtype).removeprefix("torch.")]
    kind = {"bf16": ml_dtypes.bfloat16, "f8e4m3": ml_dtypes.float8_e4m3fn, "f8e5m2": ml_dtypes.float8_e5m2}
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return raw.view(kind.get(dtype, str(tensor.dtype).removeprefix("torch."))).reshape(tuple(tensor.shape))


DTYPES = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool uint16 complex64"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_layout(tmp_path: Path, protocol: int) -> None:
    base = torch.arange(24).reshape(2, 3, 4)
    state = {name: (base % 2).to(getattr(torch, name)) for name in DTYPES.split()}
    floats = base.float()
    state |= {
        "permuted": floats.permute(2, 0, 1),
        "rows": floats[1],
        "one": floats[:, :1].transpose(0, 1),
        "stepped": floats[:, :, ::2],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(floats),
        "convolution": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    torch.save(state, tmp_path / "m.pt", pickle_protocol=protocol)
    ours = open_weights(tmp_path / "m.pt")
    assert list(ours) == list(state)
    for name, tensor in state.items():
        value = materialise(ours[name])
        assert ours[name].shape == tuple(tensor.shape)
        assert value.tobytes() == numpy_of(tensor).tobytes(), name
    for name in (*DTYPES.split(), "rows", "scalar", "parameter"):
        assert isinstance(ours[name], Stored), name
    assert isinstance(ours["stepped"], Array)


def test_shared_storages_and_modules(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    ours = open_weights(tmp_path / "m.pt")
    assert list(ours) == list(model.state_dict())
    tied = torch.ones(3, 2)
    torch.save({"a": tied, "b": tied.t()}, tmp_path / "t.pt")
    ours = open_weights(tmp_path / "t.pt")
    assert isinstance(ours["a"], Stored)
    assert materialise(ours["b"]).shape == (2, 3)


def checkpoint() -> dict[str, Any]:
    model = torch.nn.Linear(3, 4)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return {
        "model": model.state_dict(),
        "opt": optimiser.state_dict(),
        "args": argparse.Namespace(lr=np.float32(1e-4), path=Path("x"), sizes=[1, 2], nothing=None),
        "rng": torch.get_rng_state(),
        "step": 7,
    }


def test_a_training_checkpoint(tmp_path: Path) -> None:
    saved = checkpoint()
    torch.save(saved, tmp_path / "c.pt")
    assert set(open_weights(tmp_path / "c.pt")) == {"weight", "bias"}
    ema = {name: tensor + 1 for name, tensor in saved["model"].items()}
    torch.save({**saved, "ema": ema}, tmp_path / "c.pt")
    np.testing.assert_array_equal(materialise(open_weights(tmp_path / "c.pt", "ema")["bias"]), ema["bias"].numpy())
    np.testing.assert_array_equal(
        materialise(open_weights(tmp_path / "c.pt", "model")["bias"]), saved["model"]["bias"].numpy()
    )
    with pytest.raises(DiagnosticError) as caught:
        open_weights(tmp_path / "c.pt")
    assert caught.value.diagnostics[0].code == "E0409"
    assert "model" in str(caught.value) and "ema" in str(caught.value)
    with pytest.raises(DiagnosticError, match=r"did you mean 'ema'"):
        open_weights(tmp_path / "c.pt", "emma")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_come_off(tmp_path: Path, prefix: str) -> None:
    torch.save({"state_dict": {f"{prefix}a.b": torch.ones(1), f"{prefix}c": torch.ones(1)}}, tmp_path / "c.pt")
    assert list(open_weights(tmp_path / "c.pt")) == ["a.b", "c"]


class Evil:
    """Would leave a file behind if anything ran it."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("function", [os.system, builtins.exec, builtins.eval, builtins.getattr, pickle.loads])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, function: Any, old: bool) -> None:
    mark = tmp_path / "ran"
    text = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    torch.save(
        {"w": torch.ones(2), "x": Evil(function, text)}, tmp_path / "e.pt", _use_new_zipfile_serialization=not old
    )
    with pytest.raises(DiagnosticError) as caught:
        open_weights(tmp_path / "e.pt")
    assert caught.value.diagnostics[0].code == "E0407"
    assert function.__name__ in str(caught.value)
    assert not mark.exists()


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.pt").write_bytes(pickle.dumps(Evil(os.system, f"touch {tmp_path / 'ran'}")))
    assert code_of(lambda: open_weights(tmp_path / "p.pt")) in ("E0407", "E0408")
    assert not (tmp_path / "ran").exists()


def test_averages_that_are_kept_by_their_rates(tmp_path: Path) -> None:
    """As LARP's checkpoints have them."""
    averages = {rate: {"bias": torch.full((3,), rate)} for rate in (0.9, 0.999)}
    torch.save({"model": {"sd": {"bias": torch.zeros(3)}, "ema_sd": averages}}, tmp_path / "c.pt")
    for key, value in (("sd", 0.0), ("ema_sd.0.9", 0.9), ("model.ema_sd.0.999", 0.999)):
        assert np.allclose(materialise(open_weights(tmp_path / "c.pt", key)["bias"]), value)


def test_the_old_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "h": torch.ones(2, dtype=torch.bfloat16), "s": torch.tensor(1)}
    torch.save({"model": state, "step": 3}, tmp_path / "o.pt", _use_new_zipfile_serialization=False)
    ours = open_weights(tmp_path / "o.pt")
    for name, tensor in state.items():
        np.testing.assert_array_equal(materialise(ours[name]), numpy_of(tensor))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert code_of(lambda: open_weights(tmp_path / "o.pt")) == "E0414"


def test_truncated_or_flipped_is_a_diagnostic(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": {"a": torch.ones(3), "b": torch.ones(2, 2).t()}}, path)
    data = path.read_bytes()
    rng = random.Random(0)
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert code_of(lambda: open_weights(path)) in ("E0403", "E0408")
    for position in range(0, len(data), 3):
        path.write_bytes(data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :])
        try:
            for expr in open_weights(path).values():
                materialise(expr)
        except DiagnosticError as error:
            assert error.diagnostics[0].code.startswith("E04")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pickletools decodes even what is then refused
def test_any_bytes_as_a_pickle_give_a_value_or_an_error() -> None:
    rng = random.Random(1)
    seed = pickle.dumps({"a": (1, [2.0, "x"]), "b": collections.OrderedDict(c=None)}, 2)
    for _ in range(3000):
        data = bytearray(seed)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ValueError, pickled.RefusedPickle):
            pickled.load(bytes(data))


def rewritten(path: Path, name: str, content: bytes | None, compress: bool = False) -> Path:
    """The archive with one entry replaced, or removed if there is no content."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    full = next(entry for entry in entries if entry.endswith(name))
    entries.pop(full)
    if content is not None:
        entries[full] = content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    ("name", "content", "compress"),
    [
        ("data/0", None, False),
        ("data/0", b"123", False),
        ("data/0", bytes(24), True),
        ("byteorder", b"big", False),
        ("data.pkl", b"\x80\x02}", False),
        ("data.pkl", b"", False),
    ],
)
def test_an_archive_that_does_not_fit_together(
    tmp_path: Path, name: str, content: bytes | None, compress: bool
) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(2, 3)}, path)
    assert code_of(lambda: open_weights(rewritten(path, name, content, compress))) == "E0408"


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(2, 3)}, path)
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    # The stride (3, 1) becomes (200, 1).
    assert b"K\x03K\x01\x86" in data
    assert (
        code_of(lambda: open_weights(rewritten(path, "data.pkl", data.replace(b"K\x03K\x01", b"K\xc8K\x01"))))
        == "E0408"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript
def test_what_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "t.pt")
    assert code_of(lambda: open_weights(tmp_path / "t.pt")) == "E0403"
    torch.save({"a": 1}, tmp_path / "n.pt")
    assert code_of(lambda: open_weights(tmp_path / "n.pt")) == "E0409"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "s.pt")
    assert code_of(lambda: open_weights(tmp_path / "s.pt")) == "E0403"
    loop: dict[str, Any] = {"w": torch.ones(1)}
    loop["self"] = loop
    torch.save(loop, tmp_path / "l.pt")
    assert list(open_weights(tmp_path / "l.pt")) == ["w"]
    assert code_of(lambda: read_torch(tmp_path / "none.pt")) == "E0401"


@pytest.mark.parametrize("depth", [10, 300, 20000])
def test_dicts_without_end(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "d.pt"
    torch.save({"w": torch.ones(1)}, path)
    with zipfile.ZipFile(path) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    inner = data[2:-1]
    nested = data[:2] + b"}X\x01\x00\x00\x00x" * depth + inner + b"s" * depth + b"."
    rewritten(path, "data.pkl", nested)
    if depth == 10:
        assert list(open_weights(path)) == ["w"]
    else:
        assert code_of(lambda: open_weights(path)) in ("E0408", "E0409")


def test_the_zip_format_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(2, 3)}, tmp_path / "m.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(materialise(open_weights(tmp_path / "m.pt")["a"]), np.ones((2, 3)))


def test_a_compressed_pickle_is_damage(tmp_path: Path) -> None:
    """torch.save stores its pickle; 500 MB of opcodes in 500 kB would take gigabytes to read."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + b"]" * (1 << 20) + b".")
    assert code_of(lambda: read_torch(path)) == "E0408"


BOMBS = {
    "a bytearray": pickle.PROTO + b"\x05" + pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little") + b".",
    "sets": pickle.PROTO + b"\x04" + (pickle.EMPTY_SET + pickle.MEMOIZE) * 2_000_000 + b".",
    "dicts": pickle.PROTO + b"\x02" + pickle.EMPTY_DICT * 6_000_000 + b".",
    "memos": pickle.PROTO + b"\x04" + (pickle.NONE + pickle.MEMOIZE) * 5_000_000 + b".",
}


@pytest.mark.parametrize("case", BOMBS)
def test_pickles_that_would_fill_the_memory(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "ROOM", pickled.ROOM >> 6)  # so that this takes no seconds
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(2, 3)}, path)
    content = BOMBS[case]
    rewritten(path, "data.pkl", content)
    tracemalloc.start()
    assert code_of(lambda: open_weights(path)) == "E0408"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(content) + (1 << 25)


def test_a_pickle_of_many_tensors_is_read() -> None:
    """A hundred thousand tensors: the limit on what a pickle's objects take is above that."""
    size = torch.ones(2, 3)
    file = io.BytesIO()
    torch.save({f"blocks.{i}.weight": size for i in range(2000)}, file)
    with zipfile.ZipFile(file) as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    reader = pickled.Reader(io.BytesIO(data), len(data))
    reader.load()
    assert 50 * (pickled.ROOM - reader.room) < pickled.ROOM
