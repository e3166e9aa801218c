"""Pickles of modules as NVIDIA publishes them, against state_dict() of the modules, without running anything."""

from __future__ import annotations

import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc.diagnostics import DiagnosticError
from latentc.weights import materialise, open_weights

torch = pytest.importorskip("torch")


class EasyDict(dict):
    """As dnnlib's: a dict with attributes."""


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("a persistent class would be executed here")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(torch.nn.Module):
    """A module whose pickle holds its state and the source of its class, by the protocol of torch_utils.persistence."""

    def __reduce__(self) -> Any:
        state = super().__reduce__()[2]
        source = "raise AssertionError('the source is executed')"
        kind = type(self).__name__
        meta = {"type": "class", "version": 6, "module_src": source, "class_name": kind, "state": state}
        return _reconstruct_persistent_obj, (EasyDict(meta),), None


class Denoiser(Persistent):
    def __init__(self) -> None:
        super().__init__()
        self.sigma_data = 0.5
        self.model = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(2, 3, 3), "norm": torch.nn.BatchNorm1d(4)})
        self.model["conv"].weight.data = torch.randn(3, 3, 3, 2).permute(0, 3, 1, 2).half()
        self.register_buffer("table", torch.arange(6).reshape(2, 3))
        self.register_buffer("unsaved", torch.zeros(1), persistent=False)
        self.register_parameter("none", None)
        self.tied = self.model["conv"]
        self.act, self.labels = torch.nn.SiLU(), np.ones(2)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a pickle in which EasyDict and the loader have their authors' names, which cannot be imported later."""

    def call(content: Any, protocol: int = 4) -> Path:
        with monkeypatch.context() as names:
            for name in ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence"):
                names.setitem(sys.modules, name, types.ModuleType(name))
            sys.modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
            sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
            path = tmp_path / "network.pkl"
            path.write_bytes(pickle.dumps(content, protocol))
        return path

    return call


def same(found: Any, module: Any) -> bool:
    expected = module.state_dict()
    assert list(found) == list(expected)
    return all(np.array_equal(materialise(one), expected[name].numpy()) for name, one in found.items())


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_network_snapshot(write: Any, protocol: int) -> None:
    torch.manual_seed(0)
    ema, other = Denoiser(), Denoiser()
    content = EasyDict(ema=ema, G=other, loss_fn=None, encoder=EasyDict(), dataset_kwargs={"path": "x"})
    path = write(content, protocol)
    assert same(open_weights(path, "ema"), ema)
    assert same(open_weights(path, "G"), other)
    assert materialise(open_weights(path, "ema")["model.conv.weight"]).dtype == np.float16


def test_a_module_alone(write: Any) -> None:
    module = torch.nn.Linear(2, 3)
    assert same(open_weights(write(module)), module)


class Evil:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_is_run(write: Any, tmp_path: Path) -> None:
    module = Denoiser()
    module.extra = Evil(eval, f"open({str(tmp_path / 'made')!r}, 'w')")
    with pytest.raises(DiagnosticError, match="E0407"):
        open_weights(write({"ema": module}))
    assert not (tmp_path / "made").exists()
    assert "torch_utils" not in sys.modules


def test_damage(write: Any) -> None:
    path = write({"ema": torch.nn.Linear(20, 30)})
    content = path.read_bytes()
    for damaged in (content[:-100], content[: len(content) // 2], content.replace(b"\x3a\x00\x00", b"\x3b\x00\x00")):
        path.write_bytes(damaged)
        if damaged != content:
            with pytest.raises(DiagnosticError, match=r"E040[0-9]"):
                open_weights(path)
    storage = io.BytesIO()
    torch.save(torch.ones(3).untyped_storage(), storage, _use_new_zipfile_serialization=False)
    short = Evil(torch.storage._load_from_bytes, storage.getvalue()[:-2])
    module = torch.nn.Linear(1, 1)
    module.weight = None
    path = write({"ema": module, "x": short})
    with pytest.raises(DiagnosticError, match="E0408"):
        open_weights(path)
