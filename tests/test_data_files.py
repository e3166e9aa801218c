"""`check` looks at the data that a spec names: an error if it does not fit, a warning if it is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.sources import Real


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of cats and dogs, and a folder for Jupyter's checkpoints; the working directory."""
    for name in ("cat", "dog", ".ipynb_checkpoints"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / name / "0.png")
    np.savez(tmp_path / "a.npz", x=np.zeros((6, 3, 8, 8), np.float32), y=np.array([0, 1, 3] * 2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spec_of(folder: Path, **data: Any) -> str:
    own = {"kind": "image_folder", "path": "images", "classes": 2, "shape": [3, 8, 8], **data}
    text = "latentc: 1\nextends: digits_dit\nname: my\ndata:\n"
    (folder / "my.yaml").write_text(text + "".join(f"  {key}: {json.dumps(value)}\n" for key, value in own.items()))
    return "my.yaml"


@pytest.mark.parametrize(
    ("data", "near"),
    [
        ({"path": "imgaes"}, "images"),
        ({"path": "imagse/train/more"}, "images"),
        ({"path": "/somewhere/else"}, ""),
        ({"path": "images/" + "a" * 5000}, ""),
        ({"path": "a.npz/b"}, ""),
        ({"kind": "npz", "path": "b.npz"}, "a.npz"),
    ],
)
def test_data_that_is_not_here_is_a_warning(data: dict[str, Any], near: str, folder: Path, capsys: Any) -> None:
    spec = spec_of(folder, **data)
    assert run(["check", spec]) == 0
    said = capsys.readouterr()
    assert "no errors found" in said.out and said.err.count("warning: ") == 1
    assert f"data.path: there is no {folder / data['path']} on this machine" in said.err
    assert not near or f"did you mean `{folder / near}`?" in said.err
    assert run(["check", spec, "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert data["path"] in warning


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"classes": 3}, "has 2 folders (cat, dog), but the model has 3 classes"),
        ({"classes": 1}, "has 2 folders (cat, dog), but the model has 1 classes"),
        ({"kind": "npz", "path": "a.npz"}, "values of `y` run from 0 to 3, but the model has 2"),
        ({"kind": "npz", "path": "a.npz", "classes": 4, "shape": [3, 16, 16]}, "have shape [3, 8, 8]"),
        ({"kind": "webdataset"}, "neither a .tar file nor a folder of them"),
        ({"kind": "edm"}, "images cannot be read as a file of the data set"),
    ],
)
def test_data_that_does_not_fit_is_an_error(data: dict[str, Any], said: str, folder: Path, capsys: Any) -> None:
    assert run(["check", spec_of(folder, **data)]) == 1
    error = capsys.readouterr().err
    assert "error[E0419]" in error and said in error and "--> my.yaml:6:9" in error


def test_data_that_fits(folder: Path, capsys: Any) -> None:
    assert run(["check", spec_of(folder)]) == 0
    assert not capsys.readouterr().err
    assert run(["check", spec_of(folder, kind="npz", path="a.npz", classes=10)]) == 0
    assert (
        f"warning: data.classes: {folder / 'a.npz'} holds samples of 3 classes, but the spec has 10"
        in capsys.readouterr().err
    )


def test_parquet_is_not_copied(folder: Path) -> None:
    pq.write_table(pa.table({"image": [b"", b""], "label": [0, 1]}), folder / "0.parquet")
    before = sorted(folder.iterdir())
    api.check(spec_of(folder, kind="parquet", path="0.parquet"))
    with pytest.raises(DiagnosticError, match="has no column `y`"):
        pq.write_table(pa.table({"image": [b"", b""]}), folder / "0.parquet")
        api.check("my.yaml")
    assert sorted(folder.iterdir()) == sorted([*before, folder / "my.yaml"])


def test_an_empty_path_is_refused(folder: Path) -> None:
    for kind in ("image_folder", "npz", "webdataset"):
        with pytest.raises(DiagnosticError, match="the path of the data is empty"):
            api.check(spec_of(folder, kind=kind, path=""))


def test_shipped_specs_name_data_that_need_not_be_here(folder: Path) -> None:
    warnings: list[str] = []
    api.check("dit", "S/2", warn=warnings.append)
    assert not warnings
    api.check("dit", "S/2", ["data.path=nowhere"], warnings.append)
    assert len(warnings) == 1


def test_a_field_called_y_need_not_be_a_class(folder: Path) -> None:
    y = np.linspace(0, 1, 6, dtype=np.float32)
    np.savez(folder / "a.npz", x=np.zeros((6, 1, 8, 8), np.float32), y=y)
    pq.write_table(pa.table({"x": np.zeros((6, 64), np.float32).tolist(), "y": y}), folder / "a.parquet")
    for kind in ("npz", "parquet"):
        own = {"kind": kind, "path": f"a.{kind}", "classes": 0, "shape": [1, 8, 8], "fields": {"y": {"shape": [1]}}}
        spec = spec_of(folder, **own)
        unlabelled = ["conditioning.class=null", "conditioning.size={kind: vector, field: y}", "sampler.guidance=null"]
        found = api.check(spec, overrides=unlabelled)
        assert Real(found.data, None, "data", most=3).size == 3
