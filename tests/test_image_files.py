"""What the pixels of an image file are, for every reader of data and of samples: by what the file says, or refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from latentc import api
from latentc.datasets import open_dataset
from latentc.datasets.image_files import picture_from_file
from latentc.diagnostics import DiagnosticError
from latentc.samples.sets import open_set
from latentc.spec import load_spec

SIDE = 8
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
GREY = np.repeat(np.rint(RAMP * 255).astype(np.uint8)[..., None], 3, 2)
COLOUR = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
CLEAR = np.zeros((SIDE, SIDE), np.uint8)
CLEAR[:4] = 255  # the upper half is opaque
OVER_WHITE = np.where(CLEAR[..., None] == 255, COLOUR, 255)


def saved(picture: Any, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def sixteen(format: str, dtype: str = "<u2") -> bytes:
    return saved(Image.fromarray(np.rint(RAMP * 65535).astype(dtype)), format)


def with_alpha(mode: str) -> bytes:
    picture = Image.fromarray(np.dstack([COLOUR, CLEAR]))
    return saved(picture.convert(mode) if mode != "RGBA" else picture, "PNG")


def palette_with_transparency() -> bytes:
    picture = Image.fromarray((np.arange(64) % 3).astype(np.uint8).reshape(SIDE, SIDE), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50, 7, 8, 9])
    return saved(picture, "PNG", transparency=2)


def turned(format: str) -> bytes:
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter to the right
    return saved(Image.fromarray(np.ascontiguousarray(np.rot90(COLOUR))), format, exif=exif)


PALETTE = np.array([[10, 20, 30], [200, 100, 50], [255, 255, 255]], np.uint8)[np.arange(64).reshape(SIDE, SIDE) % 3]
CMYK = Image.fromarray(COLOUR).convert("CMYK")

# Files, and their pictures u8[8, 8, 3].
READ: dict[str, tuple[str, Callable[[], bytes], np.ndarray]] = {
    "8-bit RGB": ("png", lambda: saved(Image.fromarray(COLOUR), "PNG"), COLOUR),
    "8-bit grey": ("png", lambda: saved(Image.fromarray(GREY[..., 0]), "PNG"), GREY),
    "1-bit": ("png", lambda: saved(Image.fromarray(CLEAR).convert("1"), "PNG"), np.repeat(CLEAR[..., None], 3, 2)),
    "16-bit PNG": ("png", lambda: sixteen("PNG"), GREY),
    "16-bit TIFF": ("tif", lambda: sixteen("TIFF"), GREY),
    "16-bit TIFF, big-endian": ("tif", lambda: sixteen("TIFF", ">u2"), GREY),
    "float TIFF": ("tiff", lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), GREY),
    "RGBA": ("png", lambda: with_alpha("RGBA"), OVER_WHITE),
    "palette with transparency": ("png", palette_with_transparency, PALETTE),
    "transparent GIF": ("gif", lambda: saved(Image.open(io.BytesIO(palette_with_transparency())), "GIF"), PALETTE),
    "transparent colour": (
        "png",
        lambda: saved(Image.fromarray(PALETTE // 2), "PNG", transparency=(127, 127, 127)),
        np.where((PALETTE // 2 == 127).all(2, keepdims=True), 255, PALETTE // 2),
    ),
    "EXIF orientation in PNG": ("png", lambda: turned("PNG"), COLOUR),
    "EXIF orientation in TIFF": ("tif", lambda: turned("TIFF"), COLOUR),
    "CMYK": ("tif", lambda: saved(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
}
# Files that do not say what their values stand for.
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "float TIFF above 1": ("tif", lambda: saved(Image.fromarray(RAMP.astype(np.float32) * 255), "TIFF"), "0 to 255"),
    "float TIFF below 0": ("tif", lambda: saved(Image.fromarray(RAMP.astype(np.float32) - 1), "TIFF"), "-1 to 0"),
    "float TIFF with nan": ("tif", lambda: saved(Image.fromarray((RAMP * np.nan).astype(np.float32)), "TIFF"), "nan"),
    "32-bit TIFF": ("tif", lambda: saved(Image.fromarray((RAMP * 1e6).astype(np.int32)), "TIFF"), "32 bits"),
    "LAB": ("tif", lambda: saved(Image.fromarray(COLOUR, "LAB"), "TIFF"), "LAB"),
    "truncated": ("png", lambda: saved(Image.fromarray(COLOUR), "PNG")[:120], "cannot be read as an image"),
    "empty": ("png", lambda: b"", "cannot be read as an image"),
}


def image_folder(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / name).write_bytes(content)
    return {"kind": "image_folder"}


def imagenet(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    (folder / "train" / "n00000001").mkdir(parents=True)
    (folder / "train" / "n00000001" / name).write_bytes(content)
    return {"kind": "imagenet"}


def webdataset(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    folder.mkdir()
    tar_of({name: content, f"{name.partition('.')[0]}.cls": b"0"}, folder / "0.tar")
    return {"kind": "webdataset"}


def tar_of(files: dict[str, bytes], path: Path) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path.read_bytes()


def parquet(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    pq.write_table(pa.table({"image": [{"bytes": content, "path": name}], "label": [0]}), folder / "0.parquet")
    return {"kind": "parquet"}


def edm(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": [[name, 0]]}))
    return {"kind": "edm", "path": str(folder / "set.zip")}


KINDS = (image_folder, imagenet, webdataset, parquet, edm)
SETS = (image_folder, webdataset, parquet)  # of samples, which `evaluate` reads


def data_of(folder: Path, own: dict[str, Any], channels: int = 3) -> Any:
    data = {"path": str(folder), "classes": 1, "shape": [channels, SIDE, SIDE], **own}
    return open_dataset(load_spec("digits_dit", overrides=[f"data={json.dumps(data)}"]).data.settings())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", READ)
def test_pixels_are_what_the_file_says(case: str, kind: Any, tmp_path: Path) -> None:
    suffix, content, wanted = READ[case]
    own = kind(tmp_path / "set", f"7.{suffix}", content())
    found = data_of(tmp_path / "set", own).rows(np.arange(1))["x"][0]
    np.testing.assert_allclose((found.transpose(1, 2, 0) + 1) * 127.5, wanted, atol=1e-3)
    grey = data_of(tmp_path / "set", own, channels=1).rows(np.arange(1))["x"][0, 0]
    np.testing.assert_allclose((grey + 1) * 127.5, wanted @ [0.299, 0.587, 0.114], atol=1)
    if kind in SETS:
        (part,) = open_set(tmp_path / "set").chunks()
        np.testing.assert_array_equal(np.broadcast_to(part.arrays[0], wanted.shape), wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", REFUSED)
def test_values_of_unknown_scale_are_refused(case: str, kind: Any, tmp_path: Path) -> None:
    suffix, content, said = REFUSED[case]
    own = kind(tmp_path / "set", f"7.{suffix}", content())
    with pytest.raises(ValueError, match="cannot be read as an image") as caught:
        data_of(tmp_path / "set", own).rows(np.arange(1))
    names = {"parquet": "row 0", "webdataset": "image 0 in", "edm": f"7.{suffix} in"}
    assert said in str(caught.value) and names.get(own["kind"], f"7.{suffix}") in str(caught.value)
    if kind in SETS:
        with pytest.raises(DiagnosticError, match="E0726") as refused:
            list(open_set(tmp_path / "set").chunks())
        assert said in str(refused.value)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.integers(0, 65535), format=st.sampled_from(["PNG", "TIFF"]))
def test_every_level_of_16_bits_is_the_nearest_of_8(value: int, format: str) -> None:
    content = saved(Image.fromarray(np.full((2, 2), value, "<u2")), format)
    found = np.asarray(picture_from_file(io.BytesIO(content), "x"))
    assert abs(int(found[0, 0]) / 255 - value / 65535) <= 0.5 / 255 + 1e-9


def test_grey_that_a_tiff_stores_inverted(tmp_path: Path) -> None:
    """PhotometricInterpretation 0: white is zero. The tag's value is patched, because Pillow writes 1."""
    for array, wanted in ((np.full((2, 2), 65535, "<u2"), 0), (np.full((2, 2), 0.25, np.float32), 191)):
        content = bytearray(saved(Image.fromarray(array), "TIFF"))
        at = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01")
        content[at + 8] = 0
        assert np.asarray(picture_from_file(io.BytesIO(bytes(content)), "x"))[0, 0] == wanted


# ---- files beside the images


def test_hidden_files_and_folders_hold_no_data(tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/0.png", ".ipynb_checkpoints/0.png", "cat/._0.png", "dog/.cache/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(saved(Image.fromarray(COLOUR), "PNG") if "._" not in name else b"\0")
    found = data_of(tmp_path, {"kind": "image_folder", "classes": 2})
    assert found.size == 2 and found.rows(np.arange(2))["y"].tolist() == [0, 1]
    held = open_set(tmp_path)
    assert held.count == 2 and held.class_names == ("cat", "dog")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("0.png", "__MACOSX/._0.png"):
            archive.writestr(name, saved(Image.fromarray(COLOUR), "PNG"))
        archive.writestr("dataset.json", '{"labels": [["0.png", 0]]}')
    assert data_of(tmp_path, {"kind": "edm", "path": str(tmp_path / "a.zip")}).size == 1


@pytest.mark.parametrize("what", ["pipe", "link"])
def test_what_is_no_file_is_refused_and_not_waited_for(what: str, tmp_path: Path) -> None:
    for name in ("cat/0.png", "n00000001/0.png", "train/n00000001/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(saved(Image.fromarray(COLOUR), "PNG"))
        place = (tmp_path / name).with_name("1.png")
        os.mkfifo(place) if what == "pipe" else place.symlink_to("nothing")
    for own in ({"kind": "image_folder", "classes": 0}, {"kind": "imagenet"}, {"kind": "edm", "classes": 0}):
        overrides = [f"data={json.dumps({'path': str(tmp_path), 'shape': [3, 8, 8], 'classes': 1, **own})}"]
        if own.get("classes") == 0:
            overrides += ["conditioning.class=null", "sampler.guidance=null"]
        with pytest.raises(ValueError, match=r"1\.png is not a file"):
            open_dataset(load_spec("digits_dit", overrides=overrides).data.settings())
    with pytest.raises(DiagnosticError, match=r"1\.png is not a file"):
        api.evaluate(tmp_path, "digits")


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path, "0.png", saved(Image.fromarray(COLOUR), "PNG"))
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"b holds no images, so class 1 has no samples"):
        data_of(tmp_path, {"kind": "image_folder", "classes": 2})


# ---- .tar files


FILES = {f"{i}.{s}": c for i in range(4) for s, c in (("png", saved(Image.fromarray(COLOUR), "PNG")), ("cls", b"0"))}


def test_a_tar_that_is_cut_or_damaged_is_never_a_shorter_one(tmp_path: Path) -> None:
    """At every block: no sample is missing without a word, and no advice is about labels."""
    whole = tar_of(FILES, tmp_path / "0.tar")
    ends = len(whole.rstrip(b"\0")) // 512 + 1
    for block in range(1, ends):
        for content in (whole[: 512 * block], whole[: 512 * block + 100], _flipped(whole, 512 * block + 150)):
            (tmp_path / "0.tar").write_bytes(content)
            try:
                found = data_of(tmp_path, {"kind": "webdataset"})
            except ValueError as error:
                assert "0.tar cannot be read as an uncompressed .tar" in str(error) and "label" not in str(error), error
            else:
                assert found.size == 4  # the flipped byte was in a file
            try:
                assert open_set(tmp_path).count == 4
            except DiagnosticError as error:
                assert "0.tar cannot be read as WebDataset" in str(error)
    (tmp_path / "0.tar").write_bytes(whole + whole)
    with pytest.raises(ValueError, match="it goes on after its end"):
        data_of(tmp_path, {"kind": "webdataset"})


def _flipped(content: bytes, at: int) -> bytes:
    """With a byte of a header's checksum changed, if a header is there."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("0.cls", b"12345678901234567890", "0.cls is '12345678901234567890', which is not a class number"),
        ("0.cls", b"0.5", "which is not a class number"),
        ("0.cls", b"cat", "which is not a class number"),
        ("0.cls", b"1_0", "which is not a class number"),
        ("0.json", b'{"label": 0.7}', "`label` of 0.json is '0.7'"),
        ("0.json", b'{"label": true}', "`label` of 0.json is 'True'"),
        ("0.json", b'{"kind": 3}', "the sample 0 has no label: neither a file 0.cls nor a key `cls`"),
        ("0.txt", b"a cat", "the sample 0 has no label"),
        ("0.cls", b"-1", "values of `y` run from -1"),
        ("0.cls", b"1", "values of `y` run from 1 to 1, but the model has 1"),
    ],
)
def test_labels_of_a_tar(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    tar_of({"0.png": FILES["0.png"], name: content}, tmp_path / "0.tar")
    with pytest.raises(ValueError) as caught:
        data_of(tmp_path, {"kind": "webdataset"})
    assert said in str(caught.value)


def test_label_files_of_another_suffix(tmp_path: Path) -> None:
    tar_of({"0.png": FILES["0.png"], "0.kind": b"0\n"}, tmp_path / "0.tar")
    found = data_of(tmp_path, {"kind": "webdataset", "label": "kind"})
    assert found.rows(np.arange(1))["y"].tolist() == [0]
