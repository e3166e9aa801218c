"""Kinds of data: which fields they can hold, and that only those are read that training reads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentc import api
from latentc.components import load
from latentc.components.dataset import Data
from latentc.components.read_fields import fields_read, problems_of_reading
from latentc.datasets import open_dataset
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import config_of
from latentc.lower import lower
from latentc.spec import Spec, load_spec

DEPTH = ("conditioning.depth={kind: vector}",)
TEXT = "{shape: [77], classes: 49408, medium: text, end: 0}"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)


def spec_of(data: str, *others: str) -> Spec:
    return load_spec("digits_dit", overrides=[f"data={data}", *others])


def faults(data: str, *others: str) -> list[tuple[str, str | None]]:
    """(message, help) of what `check` refuses."""
    with pytest.raises(DiagnosticError) as caught:
        api.check("digits_dit", None, [f"data={data}", *others])
    return [(d.message, d.help) for d in caught.value.diagnostics if d.span is not None]


@pytest.mark.parametrize("kind", ["image_folder", "imagenet", "edm", "webdataset"])
def test_images_hold_no_other_numbers(kind: str) -> None:
    ((message, mend),) = faults(
        f"{{kind: {kind}, classes: 3, shape: [3, 8, 8], fields: {{depth: {{shape: [4]}}}}}}", *DEPTH
    )
    assert f"training reads field `depth` [4] of medium `array`, which data of kind `{kind}` cannot hold" in message
    assert mend == "kinds of data that hold all that training reads: huggingface, npy_folder, npz, parquet, table"


@pytest.mark.parametrize(
    "data",
    [
        "{kind: image_folder, classes: 3, shape: [4, 8, 8]}",
        "{kind: audio_folder, classes: 3, fields: {x: {shape: [1, 8, 8], medium: image}}}",
        "{kind: edm_latents, classes: 3, shape: [4, 8, 8], fields: {depth: {shape: [4]}}}",
        "{kind: dit_features, classes: 3, shape: [4, 8, 8], fields: {depth: {shape: [4]}}}",
    ],
)
def test_what_else_cannot_be_read(data: str) -> None:
    found = faults(data, *(DEPTH if "depth" in data else ()))
    assert len(found) == 1 and "cannot hold: it has" in found[0][0]


@pytest.mark.parametrize("kind", ["npz", "npy_folder", "parquet", "huggingface"])
def test_other_data_hold_any_numbers(kind: str) -> None:
    data = f"data={{kind: {kind}, classes: 3, shape: [3, 8, 8], fields: {{depth: {{shape: [4]}}}}}}"
    api.check("digits_dit", None, [data, *DEPTH])


def test_emit_refuses_what_check_refuses(tmp_path: Path) -> None:
    for verb in (api.emit, api.train):
        with pytest.raises(DiagnosticError, match="which data of kind `image_folder` cannot hold"):
            verb("llamagen", tmp_path, overrides=["data.first_stage=null", "backbone.depth=1"])  # type: ignore[operator]


def test_the_examples_of_all_kinds_hold_their_fields() -> None:
    for kind, cls in load("data").items():
        assert issubclass(cls, Data)
        data = cls.model_validate(cls.EXAMPLE)
        for name, field in data.fields.items():
            assert cls.provides(name, field, data.fields, False), (kind, name)


def test_a_field_that_only_requests_give_may_be_missing() -> None:
    """Training does not read it, so the project's reader does not look for it either."""
    spec = load_spec("adm_sdg", "text", ["data.kind=image_folder", "data.path=d", "networks.words.pretrained=null"])
    updates = lower(spec).updates
    assert not list(problems_of_reading(spec, updates)) and "text" not in fields_read(spec, updates)
    assert list(config_of(spec, updates)["data"]["fields"]) == ["x", "y"]


def test_what_computed_fields_come_from_is_read() -> None:
    """Images of representations, and features that neighbours are searched by, but not what is made of them."""
    spec = load_spec("rarm")
    assert fields_read(spec, lower(spec).updates) == ("tokens", "clip")


def test_x_is_an_image_however_it_is_declared() -> None:
    short = spec_of("{kind: npz, classes: 10, shape: [1, 8, 8]}").data.fields
    long = spec_of("{kind: npz, fields: {x: {shape: [1, 8, 8]}, y: {classes: 10}}}").data.fields
    assert short == long
    sound = load("data")["audio_folder"].model_validate(
        {"kind": "audio_folder", "rate": 100.0, "fields": {"x": {"shape": (1, 8)}}}
    )
    assert sound.fields["x"].rate == 100.0 and sound.fields["x"].medium == "audio"  # type: ignore[attr-defined]
    declared = spec_of("{kind: npz, fields: {x: {shape: [1, 8, 8], medium: array}, y: {classes: 10}}}").data.fields
    assert declared["x"].medium == "array"


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def shards(folder: Path) -> None:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, picture in enumerate(PIXELS):
            info = tarfile.TarInfo(f"{i:04d}.png")
            info.size = len(content := png(picture))
            tar.addfile(info, io.BytesIO(content))


def table(folder: Path, **columns: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": png(picture), "path": None} for picture in PIXELS]
    pq.write_table(pa.table({"image": images, **columns}), folder / "0.parquet")


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_captions_are_not_read_that_training_does_not_read(kind: str, tmp_path: Path) -> None:
    (shards if kind == "webdataset" else table)(tmp_path)
    path = json.dumps(str(tmp_path))
    data = f"data={{kind: {kind}, path: {path}, shape: [3, 256, 256], fields: {{text: {TEXT}}}}}"
    spec = load_spec("adm_sdg", "text", [data])
    settings = config_of(spec, lower(spec).updates)["data"]
    assert set(open_dataset(settings).rows(np.arange(2))) == {"x"}
    with pytest.raises(ValueError, match="text"):
        open_dataset(spec.data.settings()).rows(np.arange(2))


def test_columns_of_numbers_beside_images(tmp_path: Path) -> None:
    depth = np.random.default_rng(1).standard_normal((4, 2, 2)).astype(np.float32)
    table(tmp_path, depth=depth.reshape(4, -1).tolist(), label=[0, 1, 2, 1])
    fields = "{depth: {shape: [2, 2]}}"
    data = f"{{kind: parquet, path: {json.dumps(str(tmp_path))}, classes: 3, shape: [3, 8, 8], fields: {fields}}}"
    rows = open_dataset(spec_of(data).data.settings()).rows(np.array([2, 0]))
    np.testing.assert_array_equal(rows["depth"], depth[[2, 0]])
    assert rows["x"].shape == (2, 3, 8, 8) and rows["y"].tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"rows of `depth` have shape \[4\], but the model takes \[3\]"):
        open_dataset(spec_of(data.replace("[2, 2]", "[3]")).data.settings()).rows(np.arange(2))
