"""`latentc data`: what data holds, of each kind, with its damaged and unusual files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_datasets_people_have as people
from PIL import Image
from test_datasets_people_have import COUNT, KINDS, NAMES, PIXELS, SIDE, png

from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of cats and dogs; the working directory."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            content = png(np.full((16, 16 + i, 3), 100 * number + 10 * i, np.uint8))
            (tmp_path / "pets" / name / f"{i}.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_recognised(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "set")
    before = sorted(tmp_path.rglob("*"))
    found = api.data(tmp_path / "set")
    assert sorted(tmp_path.rglob("*")) == before, "it writes nothing"
    own = {"kind": kind, "path": str(tmp_path / "set"), "classes": 3, "shape": [3, SIDE, SIDE]}
    assert found.section == own | ({"split": "train"} if kind == "huggingface" else {})
    assert (found.size, found.read, found.classes) == (COUNT, COUNT, [3, 3, 3])
    assert found.names == ([] if kind == "edm" else NAMES)
    assert (found.channels, found.damaged, found.notes) == (3, [], [])
    assert {one.what for one in found.odd} == ({"a PNG file in spite of its name"} if kind == "imagenet" else set())
    values = PIXELS / 255
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(found.deviation, values.std(axis=(0, 1, 2)), atol=1e-4)
    assert (found.least, found.most) == (PIXELS.min(), PIXELS.max())
    api.check("digits_dit", overrides=[f"data={json.dumps(found.section)}"])  # the section reads the data


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_and_skips_damaged_images(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = people.png
    monkeypatch.setattr(people, "png", lambda p: own(p)[: 60 if (p == PIXELS[4]).all() else None])
    KINDS[kind](tmp_path / "set")
    found = api.data(tmp_path / "set")
    assert (found.size, found.sizes.total(), len(found.damaged)) == (COUNT, COUNT - 1, 1)
    place = people.LABELS.argsort(kind="stable").tolist().index(4) if kind == "imagenet" else 4
    settings = people.settings_of(kind, tmp_path / "set")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        people.open_dataset(settings).rows(np.arange(COUNT))
    rows = people.open_dataset({**settings, "damaged": "skip"}).rows(np.arange(COUNT))
    assert (rows["x"][place] == rows["x"][place + 1]).all() and rows["y"][place] == rows["y"][place + 1]


def bytes_of(picture: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **how)
    return file.getvalue()


GREY = Image.new("L", (16, 16), 50)
RGB = Image.new("RGB", (16, 16), (1, 2, 3))
EXIF = Image.Exif()
EXIF[274] = 6

ODD = {
    "deep.png": (bytes_of(Image.fromarray(np.full((16, 16), 40000, np.uint16)), "PNG"), "16 bits per channel"),
    "cmyk.jpg": (bytes_of(RGB.convert("CMYK"), "JPEG"), "CMYK, converted to RGB"),
    "pixel.png": (bytes_of(Image.new("RGB", (1, 1)), "PNG"), "1 × 1 pixel"),
    "line.png": (bytes_of(Image.new("RGB", (16, 2)), "PNG"), "16 × 2 pixels"),
    "wide.png": (bytes_of(Image.new("RGB", (64, 16)), "PNG"), "the centre square is used"),
    "clear.png": (bytes_of(Image.new("RGBA", (16, 16), (0, 0, 0, 9)), "PNG"), "transparent"),
    "moving.gif": (bytes_of(GREY, "GIF", save_all=True, append_images=[Image.new("L", (16, 16))]), "2 frames"),
    "turned.jpg": (bytes_of(RGB, "JPEG", exif=EXIF), "turned as its EXIF says"),
    "named.png": (bytes_of(RGB, "JPEG"), "a JPEG file in spite of its name"),
}
DAMAGED = {
    "cut.png": bytes_of(Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)), "PNG")[:-60],
    "empty.jpg": b"",
    "page.jpg": b"<html>",
    "int32.tif": bytes_of(Image.fromarray(np.full((16, 16), 70000, np.int32)), "TIFF"),
}


def test_damaged_and_odd_files_are_named(folder: Path) -> None:
    for name, (content, _) in ODD.items():
        (folder / "pets/cat" / name).write_bytes(content)
    for name, content in DAMAGED.items():
        (folder / "pets/dog" / name).write_bytes(content)
    found = api.data("pets")
    assert {one.name for one in found.damaged} == {f"pets/dog/{name}" for name in DAMAGED}
    odd = {one.name: one.what for one in found.odd}
    assert odd.keys() == {f"pets/cat/{name}" for name in ODD}
    for name, (_, said) in ODD.items():
        assert said in odd[f"pets/cat/{name}"]
    assert found.classes == [4 + len(ODD), 4 + len(DAMAGED)]
    assert found.sizes.total() == found.size - len(DAMAGED)


def test_what_is_ignored_is_said(folder: Path, capsys: Any) -> None:
    (folder / "pets/.ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/0.png", "cat/._0.png", "beside.png", "cat/notes.txt"):
        (folder / "pets" / name).write_bytes(b"")
    (folder / "pets/bird").mkdir()
    assert run(["data", "pets"]) == 0
    said = capsys.readouterr().out
    assert "pets: image_folder, 8 samples" in said and "damaged" not in said
    for words in (
        "pets/.ipynb_checkpoints (hidden folder, 1 file)",
        "pets/cat/._0.png (hidden file)",
        "1 image in pets itself, beside the class folders",
        "1 file .txt (not read as images)",
        "class folder `bird` holds no images",
        "classes   3, of 0 to 4 samples: bird 0, cat 4, dog 4",
        "spec      data: {kind: image_folder, path: pets, classes: 3, shape: [3, 16, 16]}",
    ):
        assert words in said


def test_splits_and_single_folders_are_no_classes(folder: Path) -> None:
    (folder / "all").mkdir()
    (folder / "pets").rename(folder / "all/train")
    (folder / "all/test").mkdir()
    found = api.data("all")
    assert found.section["path"] == "all/train" and found.names == ["cat", "dog"]
    assert "`train` was inspected" in found.notes[0]
    found = api.data("all/train/cat")
    assert (found.size, found.classes, found.channels) == (4, [], 3) and "classes" not in found.section


def test_a_sheet_has_a_row_per_class(folder: Path, capsys: Any) -> None:
    assert run(["data", "pets", "-o", "out/sheet.png", "--most", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["samples"], found["read"]) == (8, 4)
    assert found["classes"] == [{"name": "cat", "samples": 4}, {"name": "dog", "samples": 4}]
    pixels = np.asarray(Image.open("out/sheet.png").convert("RGB")).astype(int)
    assert pixels.shape[0] == 2 * 48 + 2, "two rows of enlarged pictures"
    assert {tuple(row[-60:].max(axis=0)) for row in pixels[[20, 70]]} == {(255, 255, 255)}, "two of eight per row"


def test_arrays(tmp_path: Path) -> None:
    x, y = np.zeros((6, 28, 28), np.uint8), np.array([0, 1, 2] * 2)
    x[:, 3] = 255
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:2])
    found = api.data(tmp_path / "mnist.npz", sheet=tmp_path / "a.png")
    assert found.section["keys"] == {"x": "x_train", "y": "y_train"} and found.section["shape"] == [1, 28, 28]
    assert (found.classes, found.ignored) == ([2, 2, 2], ["x_test uint8[2, 28, 28]"])
    spec = load_spec("digits_dit", overrides=[f"data={json.dumps(found.section)}"])
    from latentc.datasets import open_dataset

    assert open_dataset(spec.data.settings()).rows(np.arange(2))["x"].shape == (2, 1, 28, 28)
    values = np.random.default_rng(0).standard_normal((5, 4, 8, 8)).astype(np.float32)
    values[3, 0, 0, 0] = np.nan
    np.savez(tmp_path / "latents.npz", x=values)
    found = api.data(tmp_path / "latents.npz")
    assert [one.name for one in found.damaged] == ["sample 3"] and found.section["shape"] == [4, 8, 8]
    np.testing.assert_allclose(found.mean, np.delete(values, 3, 0).mean(axis=(0, 2, 3)), atol=1e-4)
    np.savez(tmp_path / "floats.npz", images=np.linspace(0, 1, 4 * 64).reshape(4, 8, 8, 1))
    assert "floats from 0 to 1" in api.data(tmp_path / "floats.npz").notes[0]


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    datasets = pytest.importorskip("datasets")
    KINDS["huggingface"](tmp_path / "set")
    whole = datasets.load_from_disk(str(tmp_path / "set"))["train"]
    asked = []

    def load(name: str, split: str) -> Any:
        asked.append((name, split))
        if name == "org/gone":
            raise FileNotFoundError("Dataset 'org/gone' doesn't exist on the Hub")
        return whole

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    found = api.data("org/pictures")
    assert (found.size, found.names, found.classes) == (COUNT, NAMES, [3, 3, 3])
    assert found.section["path"] == "data/pictures" and "`latentc init --data org/pictures` saves it" in found.notes[0]
    api.data("hub:set", split="test")
    assert asked == [("org/pictures", "train"), ("set", "test")]
    assert run(["data", "org/gone"]) == 1
    assert "error[E0423]" in capsys.readouterr().err
    assert run(["data", "set/gone"]) == 1, "a path below a folder that is here"
    assert "error[E0401]" in capsys.readouterr().err


def test_a_column_may_name_image_files(folder: Path) -> None:
    """As `datasets` caches images that lie as files on the Hub."""
    import pyarrow as pa

    from latentc.datasets.arrow import Table
    from latentc.survey.items import from_table
    from latentc.survey.survey import survey_of

    images = [{"bytes": None, "path": str(folder / f"pets/{name}")} for name in ("cat/0.png", "dog/0.png", "gone.png")]
    table = pa.table({"image": images, "label": [0, 1, 1]})
    with pa.OSFile("a.arrow", "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    items = from_table({"kind": "huggingface", "path": "org/pets"}, Table([Path("a.arrow")]), ["cat", "dog"])
    found, _ = survey_of(items, "org/pets", None, lambda done, total: None)
    assert (found.read, found.sizes, len(found.damaged)) == (3, {(16, 16): 2}, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"x", "holds no data that latentc reads"),
        ("a.wav", b"x", "holds data of kind `audio_folder`, which is not inspected"),
        ("a.npz", b"x", "cannot be read as an .npz file"),
        ("a.tar", b"x" * 600, "cannot be read as an uncompressed .tar"),
        ("a.parquet", b"x", "cannot be read as parquet"),
        ("a.zip", b"x", "cannot be read as a zip"),
        ("a.png", b"x", "holds no data that latentc reads"),
    ],
)
def test_what_cannot_be_inspected_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DiagnosticError) as caught:
        api.data(tmp_path / name)
    assert said in str(caught.value) and caught.value.diagnostics[0].code == "E0422"


def test_a_near_name_is_suggested(folder: Path) -> None:
    with pytest.raises(DiagnosticError, match="did you mean `pets`"):
        api.data("pest")
