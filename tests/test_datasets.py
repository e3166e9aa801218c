"""Readers of training data: fields, dtypes, augmentation, refusals."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentc.datasets import Dataset, open_dataset
from latentc.spec import load_spec

EVERY = np.arange(6)
AUDIO = {"shape": [1, 64], "axes": ["channel", "time"], "range": [-1, 1], "rate": 100.0, "medium": "audio"}


def settings_of(data: str) -> dict[str, Any]:
    return load_spec("digits_dit", overrides=[f"data={data}"]).data.settings()


def opened(data: str) -> Dataset:
    return open_dataset(settings_of(data))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(5):
            pixels = rng(i).integers(0, 255, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path / "images"


def test_digits() -> None:
    half, rest, whole = (opened("{kind: digits" + text + "}") for text in ("", ", part: test", ", part: all"))
    assert (half.size, rest.size, whole.size) == (898, 899, 1797)
    rows = half.rows(EVERY)
    assert rows["x"].shape == (6, 1, 8, 8) and rows["x"].dtype == np.float32 and np.abs(rows["x"]).max() == 1
    assert rows["y"].dtype == np.int64
    found = open_dataset(load_spec("digits_llamagen").data.settings()).rows(EVERY)
    assert found["tokens"].shape == (6, 64) and found["tokens"].dtype == np.int64


def test_npz_with_any_fields(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    sound, mel, y = rng().standard_normal((6, 1, 64)), rng().standard_normal((6, 8, 4)), np.arange(6) % 3
    np.savez(file, wave=sound, mel=mel, y=y, other=np.zeros(3))
    settings = settings_of(f"{{kind: npz, path: '{file}', keys: {{x: wave}}, classes: 3, shape: [1, 8, 8]}}")
    settings["fields"] |= {"x": AUDIO, "mel": {"shape": [8, 4], "dtype": "f32", "medium": "array"}}
    settings["fields"]["x"]["dtype"] = "f32"
    rows = open_dataset(settings).rows(np.array([4, 1]), rng())
    assert {name: (array.shape, array.dtype.name) for name, array in rows.items()} == {
        "x": ((2, 1, 64), "float32"),
        "mel": ((2, 8, 4), "float32"),
        "y": ((2,), "int64"),
    }
    np.testing.assert_allclose(rows["x"], sound[[4, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "none.npz"}, "no such file"),
        ({"keys": {"x": "pixels"}}, "no array `pixels` for the field `x`; arrays: x, y"),
        ({"fields.y.classes": 1}, "values of `y` run from 0 to 1, but the model has 1"),
        ({"fields.x.shape": [3, 16, 16]}, "but the model takes"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, x=np.zeros((6, 8, 8, 3), np.uint8), y=np.array([0, 1] * 3))
    settings = settings_of(f"{{kind: npz, path: '{file}', classes: 2, shape: [3, 8, 8]}}")
    assert open_dataset(settings).size == 6
    for path, value in change.items():
        *way, last = path.split(".")
        place = settings
        for key in way:
            place = place[key]
        place[last] = value
    with pytest.raises(ValueError, match=said):
        open_dataset(settings)


def test_numbers_are_vectors_of_one_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 1, 8, 8)), y=np.arange(3), angle=np.arange(3.0))
    fields = "{x: {shape: [1, 8, 8]}, y: {classes: 10}, angle: {shape: [1]}}"
    made = opened(f"{{kind: npz, path: '{tmp_path}/a.npz', fields: {fields}}}").rows(np.array([2, 1]))
    assert made["angle"].tolist() == [[2.0], [1.0]]


def test_uint8_pixels_become_numbers_in_range(tmp_path: Path) -> None:
    pixels = rng().integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, y=np.zeros(6, int))
    found = opened(f"{{kind: npz, path: '{tmp_path / 'a.npz'}', classes: 2, shape: [3, 8, 8]}}").rows(EVERY)["x"]
    np.testing.assert_allclose(found, pixels.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)


def test_only_images_are_mirrored(tmp_path: Path) -> None:
    file, every = tmp_path / "a.npz", np.arange(64)
    x, other = rng().standard_normal((64, 1, 8, 8)), rng().standard_normal((64, 8))
    mask = rng().integers(0, 2, (64, 8, 8))
    np.savez(file, x=x, mask=mask, other=other, y=np.zeros(64, int))
    fields = "{mask: {shape: [8, 8], classes: 2, medium: image}, other: {shape: [8]}}"
    short = f"kind: npz, path: '{file}', classes: 1, horizontal_flip: true"
    found = opened(f"{{{short}, shape: [1, 8, 8], fields: {fields}}}")
    rows = found.rows(every, rng())
    mirrored = (rows["mask"] != mask).any((1, 2))
    assert 16 < mirrored.sum() < 48
    np.testing.assert_array_equal(rows["mask"][mirrored], mask[mirrored][..., ::-1])
    np.testing.assert_allclose(rows["x"][mirrored], x[mirrored][..., ::-1], rtol=1e-6)
    np.testing.assert_allclose(rows["x"][~mirrored], x[~mirrored], rtol=1e-6)
    np.testing.assert_allclose(rows["other"], other, rtol=1e-6)
    np.testing.assert_array_equal(found.rows(every)["mask"], mask)  # never without rng
    # Five channels are no image: a mirror image of them would be another sample.
    np.savez(file, x=rng().standard_normal((64, 5, 8, 8)), y=np.zeros(64, int))
    latents = opened(f"{{{short}, shape: [5, 8, 8]}}")
    np.testing.assert_array_equal(latents.rows(every, rng())["x"], latents.rows(every)["x"])


def test_npy_folder_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", (np.arange(6 * 64) / 512).astype(np.float16).reshape(6, 1, 8, 8))
    data = f"kind: npy_folder, path: '{tmp_path}', shape: [1, 8, 8]"
    with pytest.raises(ValueError, match=r"no such file: .*y\.npy"):
        opened(f"{{{data}, classes: 2}}")
    np.save(tmp_path / "y.npy", np.array([0, 1, 0, 1, 0, 2]))
    with pytest.raises(ValueError, match="values of `y` run from 0 to 2"):
        opened(f"{{{data}, classes: 2}}")
    found = opened(f"{{{data}, classes: 3}}")
    assert not found.in_memory and isinstance(found.arrays["x"], np.memmap)  # type: ignore[attr-defined]
    rows = found.rows(np.array([5, 0]))
    assert rows["x"].dtype == np.float32 and rows["x"][0, 0, 0, 0] == 5 * 64 / 512 and rows["y"].tolist() == [2, 0]


def test_image_folder(images: Path) -> None:
    data, every = f"kind: image_folder, path: '{images}'", np.arange(10)
    found = opened(f"{{{data}, shape: [3, 8, 8], classes: 2}}")
    rows = found.rows(every)
    assert found.size == 10 and rows["y"].tolist() == [0] * 5 + [1] * 5
    assert rows["x"].shape == (10, 3, 8, 8) and rows["x"].dtype == np.float32 and np.abs(rows["x"]).max() <= 1
    augmented = found.rows(every, rng())["x"]
    same = (augmented == rows["x"]).all((1, 2, 3))
    assert 0 < same.sum() < 10 and (augmented[~same] == rows["x"][~same][..., ::-1]).all()
    with pytest.raises(ValueError, match=r"has 2 folders \(cat, dog\), but the model has 3 classes"):
        opened(f"{{{data}, shape: [3, 8, 8], classes: 3}}")
    assert opened(f"{{{data}, shape: [1, 8, 8], classes: 2}}").rows(EVERY)["x"].shape == (6, 1, 8, 8)
    with pytest.raises(ValueError, match="the model takes none"):
        opened(f"{{{data}, shape: [4, 8, 8], classes: 2}}")


def test_data_without_labels(images: Path) -> None:
    settings = settings_of("{kind: digits}")
    del settings["fields"]["y"]
    free = {"kind": "image_folder", "path": str(images), "classes": 0, "horizontal_flip": False, "augment": 0}
    found = open_dataset(settings | free)
    assert found.size == 10 and list(found.rows(EVERY)) == ["x"]


def write_wav(path: Path, sound: np.ndarray, width: int, rate: int = 100) -> None:
    """PCM of sound f64[T, C] in [-1, 1], `width` bytes per sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.round(sound * (2 ** (8 * width - 1) - 1)).astype("<i4")
    if width == 1:
        data = (whole + 128).astype(np.uint8).tobytes()
    else:
        data = np.ascontiguousarray(whole).view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_audio_folder(width: int, tmp_path: Path) -> None:
    ramp = np.linspace(-1, 1, 400)[:, None]
    write_wav(tmp_path / "a" / "long.wav", ramp, width)
    write_wav(tmp_path / "b" / "short.wav", np.stack([np.full(40, 0.5), np.zeros(40)], 1), width)
    settings = settings_of("{kind: digits}") | {"kind": "audio_folder", "path": str(tmp_path), "classes": 2}
    settings["fields"]["x"] = AUDIO
    found, least = open_dataset(settings), 2 / 2 ** (8 * width - 1) + 1e-6
    rows = found.rows(np.array([0, 1]))
    assert rows["x"].shape == (2, 1, 64) and rows["x"].dtype == np.float32 and rows["y"].tolist() == [0, 1]
    np.testing.assert_allclose(rows["x"][0, 0], ramp[168 : 168 + 64, 0], atol=least)  # the middle
    np.testing.assert_allclose(rows["x"][1, 0], np.where(np.arange(64) < 40, 0.25, 0), atol=least)
    starts = {float(found.rows(np.array([0]), rng(i))["x"][0, 0, 0]) for i in range(8)}
    assert len(starts) > 4
    for change, said in (
        ({"rate": 200.0}, "has 100 samples per second, not 200"),
        ({"shape": [3, 64]}, "has 1 channels, but the model takes 3"),
    ):
        settings["fields"]["x"] = AUDIO | change
        with pytest.raises(ValueError, match=said):
            open_dataset(settings).rows(EVERY[:1])
    (tmp_path / "a" / "long.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match="not a PCM WAV"):
        open_dataset(settings).rows(EVERY[:1])


def test_damaged_files_are_refused(tmp_path: Path, images: Path) -> None:
    x, y = np.zeros((6, 1, 8, 8), np.float32), np.arange(6)
    np.savez(tmp_path / "whole.npz", x=x, y=y)
    whole = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[400] ^= 1
    contents = {
        "cut": whole[:700],
        "flipped": bytes(flipped),
        "empty": b"",
        "text": b"no archive",
        "zip": b"PK" + whole[9:],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
    np.savez(tmp_path / "objects.npz", x=np.array([{}] * 6, dtype=object), y=y)
    for name in (*contents, "objects"):
        with pytest.raises(ValueError, match=rf"{name}.npz cannot be read as an .npz file of numbers: "):
            opened(f"{{kind: npz, path: '{tmp_path}/{name}.npz', classes: 10, shape: [1, 8, 8]}}")
    for name, array in (("text", np.array(["a"] * 6)), ("single", np.float32(1)), ("complex", x + 1j)):
        np.savez(tmp_path / f"of_{name}.npz", x=array, y=y)
        with pytest.raises(ValueError, match="field `x` is not an array of numbers"):
            opened(f"{{kind: npz, path: '{tmp_path}/of_{name}.npz', classes: 10, shape: [1, 8, 8]}}")
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY half")
    with pytest.raises(ValueError, match=r"x\.npy cannot be read"):
        opened(f"{{kind: npy_folder, path: '{tmp_path}', classes: 10, shape: [1, 8, 8]}}")
    file = sorted(images.rglob("*.png"))[0]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        opened(f"{{kind: image_folder, path: '{images}', classes: 2, shape: [3, 8, 8]}}").rows(EVERY)


def unlabelled(data: str) -> Dataset:
    overrides = [f"data={data}", "conditioning.class=null", "sampler.guidance=null"]
    return open_dataset(load_spec("digits_dit", overrides=overrides).data.settings())


@pytest.mark.parametrize(
    "file",
    [
        "captions.json",
        "captions.csv",
        "captions.jsonl",
        "named.tsv",
    ],
)
def test_images_have_the_captions_of_a_file(file: str, tmp_path: Path, images: Path) -> None:
    """COCO's annotations, and tables as those of Open Images, which name images without a suffix."""
    told = [("cat/1.png", "ab"), ("dog/0.png", "b"), ("cat/1.png", "cc"), ("cat/0.png", "abcd")]
    keys = ""
    if file == "captions.json":
        numbers = {name: 7 + i for i, name in enumerate(dict(told))}
        held = {"images": [{"id": number, "file_name": name} for name, number in numbers.items()]}
        held["annotations"] = [{"image_id": numbers[name], "caption": caption, "id": 0} for name, caption in told]
        (tmp_path / file).write_text(json.dumps(held))
    elif file == "captions.jsonl":
        lines = [json.dumps({"image_id": name, "caption": caption}) for name, caption in told]
        (tmp_path / file).write_text("\n".join(lines))
    elif file == "captions.csv":
        (tmp_path / file).write_text("file_name,caption\n" + "".join(f"{n},{c}\n" for n, c in told))
    else:
        (tmp_path / file).write_text("what\tsaid\n" + "".join(f"{n}\t{c}\n" for n, c in told))
        keys = ", keys: {image: what, caption: said}"
    text = "caption: {shape: [4], classes: 6, medium: text, alphabet: '_.abcd', end: 1}"
    fields = f"fields: {{{text}, caption_mask: {{shape: [4], dtype: bool}}}}"
    data = (
        f"{{kind: captioned_images, path: '{images}', captions: '{tmp_path / file}'{keys}, shape: [3, 8, 8], {fields}}}"
    )
    for per_image, rows in ((1, [0, 1, 3]), (2, [0, 1, 2, 3])):
        found = unlabelled(f"{data[:-1]}, per_image: {per_image}}}")
        assert found.size == len(rows)
        made = found.rows(np.arange(found.size))
        tokens = [[*("_.abcd".index(c) for c in told[row][1][:3]), 1] for row in rows]
        assert made["caption"].tolist() == [one + [0] * (4 - len(one)) for one in tokens]
        assert made["caption_mask"].tolist() == [[i < len(one) for i in range(4)] for one in tokens]
        plain = unlabelled(f"{{kind: image_folder, path: '{images}', shape: [3, 8, 8], horizontal_flip: false}}")
        every = {f"{name}/{i}.png": k for k, (name, i) in enumerate((n, i) for n in ("cat", "dog") for i in range(5))}
        wanted = plain.rows(np.array([every[told[row][0]] for row in rows]))["x"]
        assert np.array_equal(made["x"], wanted)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("none.json", None, "no such file"),
        ("a.json", "{}", "cannot be read as COCO's annotations"),
        ("a.json", '{"images": [], "annotations": []}', "holds no captions"),
        ("a.csv", "image,other\n1,a\n", "has no column for `caption`; it has image, other"),
        ("a.csv", "image,caption\nbird,a\n", "has a caption of bird, which is not in"),
        (
            "a.csv",
            "image,caption\n1.png,a\n",
            "a caption of 1.png, which may be cat/1.png and dog/1.png: give its path",
        ),
    ],
)
def test_captions_that_do_not_fit(file: str, content: str | None, said: str, tmp_path: Path, images: Path) -> None:
    if content is not None:
        (tmp_path / file).write_text(content)
    text = "caption: {shape: [4], classes: 256, medium: text, end: 0}"
    data = f"{{kind: captioned_images, path: '{images}', captions: '{tmp_path / file}', shape: [3, 8, 8]"
    with pytest.raises(ValueError, match=said):
        unlabelled(f"{data}, fields: {{{text}}}}}")


def arrays_of(folder: Path, kind: str, **arrays: np.ndarray) -> Any:
    """Settings of arrays in a file or a folder, as `data` of a spec gives them."""
    if kind == "npz":
        np.savez(folder / "a.npz", **arrays)
        return {"kind": "npz", "path": str(folder / "a.npz")}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return {"kind": "npy_folder", "path": str(folder)}


ARRAYS = ("npz", "npy_folder")


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.0, 1.0, 2.0], None),
        ([True, False, True], None),
        (np.array([0, 1, 2], np.uint64), None),
        ([0.5, 1, 1.5], "field `y` holds 0.5, but must hold whole numbers"),
        ([0, np.nan, 1], "field `y` holds nan"),
        ([0, 1, np.inf], "field `y` holds inf"),
        ([0, -1, 1], "run from -1 to 1"),
        ([0, 1, 3], "run from 0 to 3"),
        ([-0.9, 0, 1], "field `y` holds -0.9"),
        (np.array([0, 1, 2**63], np.uint64), "uint64"),
    ],
)
def test_labels_are_whole_numbers_of_classes(kind: str, labels: Any, said: str | None, tmp_path: Path) -> None:
    own = arrays_of(tmp_path, kind, x=np.zeros((3, 1, 8, 8), np.float32), y=np.array(labels))
    data = json.dumps({**own, "classes": 3, "shape": [1, 8, 8]})
    if said is None:
        assert opened(data).rows(np.arange(3))["y"].tolist() == [int(label) for label in labels]
        return
    with pytest.raises(ValueError) as caught:
        opened(data)
    assert said in str(caught.value)


LEVELS = np.arange(6 * 64).reshape(6, 8, 8, 1) / (6 * 64 - 1)  # from 0 to 1


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.rint(LEVELS * 255).astype(np.uint8), None),
        (np.rint(LEVELS * 65535).astype(np.uint16), None),
        (np.rint(LEVELS * 65535).astype(">u2"), None),
        (LEVELS.transpose(0, 3, 1, 2) * 2 - 1, None),
        (LEVELS > 0.5, None),
        ((LEVELS * 255).astype(np.int64), "field `x` holds int64, whose scale is unknown"),
        ((LEVELS * 255).astype(np.int16), "field `x` holds int16, whose scale is unknown"),
        (LEVELS.transpose(0, 3, 1, 2) * 255, "field `x` holds values from 0 to 255, but its range is -1 to 1"),
        (np.where(LEVELS > 0.9, np.nan, LEVELS).transpose(0, 3, 1, 2), "not finite"),
        (LEVELS.transpose(0, 3, 1, 2) * 1e300, "not finite float32"),
    ],
)
def test_pixels_in_arrays_are_scaled_or_refused(kind: str, pixels: Any, said: str | None, tmp_path: Path) -> None:
    own = arrays_of(tmp_path, kind, x=pixels, y=np.zeros(6, int))
    data = json.dumps({**own, "classes": 1, "shape": [1, 8, 8]})
    if said is None:
        wanted = LEVELS > 0.5 if pixels.dtype == bool else LEVELS
        found = opened(data).rows(np.arange(6))["x"]
        assert found.shape == (6, 1, 8, 8)
        np.testing.assert_allclose(found.transpose(0, 2, 3, 1), wanted * 2.0 - 1, atol=1.01 / 255)
        return
    with pytest.raises(ValueError) as caught:
        opened(data)
    assert said in str(caught.value)


def test_rows_of_mapped_arrays_are_checked_when_they_are_read(tmp_path: Path) -> None:
    """Beyond the first ones, which are checked when the data is opened."""
    x, grid = np.zeros((3000, 1, 8, 8), np.float32), np.zeros((3000, 4))
    x[2000], grid[2500, 0], grid[2700, 1] = np.nan, 0.5, 7
    own = arrays_of(tmp_path, "npy_folder", x=x, grid=grid, y=np.zeros(3000, int))
    fields = {"x": {"shape": [1, 8, 8]}, "y": {"classes": 2}, "grid": {"shape": [4], "classes": 5}}
    found = opened(json.dumps({**own, "fields": fields}))
    assert found.rows(np.arange(1999))["grid"].dtype == np.int64
    for row, said in (
        (2000, "field `x` holds values that are not finite"),
        (2500, "holds 0.5"),
        (2700, "from 0 to 7, but"),
    ):
        with pytest.raises(ValueError, match=said.replace("`", ".")):
            found.rows(np.arange(row - 5, row + 5))


def test_masks_and_sounds_in_arrays(tmp_path: Path) -> None:
    sound = np.array([[-32768, 0, 16384, 32767]] * 3, np.int16)
    fields = {
        "x": {"shape": [4], "medium": "audio", "rate": 100.0},
        "y": {"classes": 2},
        "mask": {"shape": [2], "dtype": "bool"},
    }
    for mask, said in (([[0, 1]] * 3, None), ([[0.0, 1.0]] * 3, None), ([[0, 2]] * 3, "true or false, but holds 2")):
        np.savez(tmp_path / "a.npz", x=sound, y=np.zeros(3, int), mask=np.array(mask))
        settings = settings_of("{kind: npz, classes: 2, shape: [1, 8, 8]}") | {"path": str(tmp_path / "a.npz")}
        from latentc.components.fields import Field

        settings["fields"] = {n: Field(**f).model_dump(mode="json", exclude_none=True) for n, f in fields.items()}
        if said is None:
            rows = open_dataset(settings).rows(np.arange(3))
            assert rows["x"][0].tolist() == [-1, 0, 0.5, 32767 / 32768] and rows["mask"].tolist() == [[False, True]] * 3
        else:
            with pytest.raises(ValueError, match=said):
                open_dataset(settings)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1.0", "0"], None),
        (["-1", "0"], "run from -1 to"),
        (["0.5", "1"], "holds 0.5, but must hold whole numbers"),
        (["cat", "1"], None),
    ],
)
def test_labels_of_a_table(labels: list[str], said: str | None, tmp_path: Path) -> None:
    rows = [",".join([label, *["0.5"] * 8]) for label in labels]
    (tmp_path / "a.csv").write_text("\n".join([",".join(["y", *(f"x_{i}" for i in range(8))]), *rows]))
    settings = settings_of("{kind: digits}") | {"kind": "table", "path": str(tmp_path / "a.csv"), "keys": {}}
    settings |= {"row": None, "classes": 2}
    settings["fields"] = {
        "x": {"shape": [8], "dtype": "f32", "medium": "array", "axes": ["axis_0"]},
        "y": {"shape": [], "dtype": "i64", "classes": 2, "medium": "array", "axes": []},
    }
    if said is None:
        assert open_dataset(settings).rows(np.arange(2))["y"].tolist() == [1, 0]
    else:
        with pytest.raises(ValueError, match=said):
            open_dataset(settings)
