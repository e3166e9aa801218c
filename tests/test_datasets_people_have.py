"""Readers of ImageNet, parquet, Hugging Face's data sets, WebDataset, and latents that others cached."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentc.components.data.parquet import Parquet
from latentc.components.data.webdataset import WebDataset
from latentc.datasets import class_names, open_dataset
from latentc.diagnostics import DiagnosticError
from latentc.emit.data import data_files
from latentc.evaluate.sources import Real
from latentc.lower import lower
from latentc.spec import load_spec

COUNT, SIDE = 9, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2] * 3)
NAMES = ["great white shark, white shark", "goldfish, Carassius auratus", "tench, Tinca tinca"]
SYNSETS = ["n01440764", "n01443537", "n01484850"]
EVERY = np.arange(COUNT)
LATENTS = np.random.default_rng(1).standard_normal((COUNT, 8, 4, 4)).astype(np.float32)
MEAN, STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def data_of(kind: str, path: Path, **settings: Any) -> Any:
    own = {"kind": kind, "path": str(path), "classes": 3, "shape": [3, SIDE, SIDE], **settings}
    return load_spec("digits_dit", overrides=[f"data={json.dumps(own)}"]).data


def settings_of(kind: str, path: Path, **settings: Any) -> dict[str, Any]:
    return data_of(kind, path, **settings).settings()  # type: ignore[no-any-return]


# ---- how each kind lies on the disk


def parquet(folder: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    folder.mkdir()
    for number, rows in enumerate(np.array_split(EVERY, 2)):
        images = [{"bytes": png(PIXELS[i]), "path": None} for i in rows]
        table = pa.table({"image": images, "label": LABELS[rows], "other": rows}).replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=2)
    return {}


def huggingface(folder: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    rows = {"image": [{"bytes": png(p), "path": None} for p in PIXELS], "label": LABELS.tolist()}
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=whole, test=whole).save_to_disk(str(folder), num_shards={"train": 2, "test": 1})
    return {}


def webdataset(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    for number, rows in enumerate(np.array_split(EVERY, 2)):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as tar:
            for i in rows:
                label = (
                    {"cls": str(LABELS[i]).encode()}
                    if i % 2
                    else {"json": json.dumps({"label": int(LABELS[i])}).encode()}
                )
                for suffix, content in {"png": png(PIXELS[i]), **label}.items():
                    info = tarfile.TarInfo(f"a/{i:04d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (folder / "class_names.txt").write_text("\n".join(NAMES) + "\n")
    return {}


def imagenet(folder: Path) -> dict[str, Any]:
    for i, label in enumerate(LABELS):
        place = folder / "train" / SYNSETS[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.JPEG").write_bytes(png(PIXELS[i]))
    lines = [f"{synset} {names}" for synset, names in zip(SYNSETS, NAMES, strict=True)]
    (folder / "LOC_synset_mapping.txt").write_text("\n".join(lines))
    return {}


def edm(folder: Path) -> dict[str, Any]:
    return archive(folder, {f"00000/img{i:08d}.png": png(PIXELS[i]) for i in EVERY})


def archive(folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
    labels = [[name, int(LABELS[i])] for i, name in enumerate(files)]
    for name, content in {**files, "dataset.json": json.dumps({"labels": labels[::-1]}).encode()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {}


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "parquet": parquet,
    "huggingface": huggingface,
    "webdataset": webdataset,
    "imagenet": imagenet,
    "edm": edm,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_labels(kind: str, tmp_path: Path) -> None:
    settings = settings_of(kind, tmp_path / "set", **KINDS[kind](tmp_path / "set"))
    found = open_dataset(settings)
    order = np.argsort(LABELS, kind="stable") if kind == "imagenet" else EVERY
    rows = found.rows(EVERY)
    np.testing.assert_allclose(rows["x"], PIXELS[order].transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)
    assert (found.size, rows["y"].dtype, found.in_memory) == (COUNT, np.int64, False)
    np.testing.assert_array_equal(rows["y"], LABELS[order])
    assert class_names(settings) == ([] if kind == "edm" else NAMES)
    # As workers get it: by pickle, in any order, mirrored by the key alone.
    other = pickle.loads(pickle.dumps(found))
    some, key = np.array([7, 2]), np.random.default_rng(5)
    a, b = found.rows(some, np.random.default_rng(5)), other.rows(some, key)
    np.testing.assert_array_equal(a["x"], b["x"])
    np.testing.assert_array_equal(other.rows(some)["x"], rows["x"][some])
    grey = open_dataset({**settings, "fields": settings_of(kind, tmp_path / "set", shape=[1, 4, 4])["fields"]})
    assert grey.rows(some)["x"].shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"classes|synsets|values of `y`"):
        two = settings_of(kind, tmp_path / "set", classes=2)
        open_dataset(two).rows(EVERY)


def test_projects_read_them_without_latentc(tmp_path: Path) -> None:
    """The copies of the readers find each other, and nothing of the compiler."""
    script = "import json, sys; sys.path[:0] = [sys.argv[1]]; import numpy; from latentc_support import dataset; "
    script += "s = json.load(open(sys.argv[2])); "
    script += (
        "d = dataset.open_dataset(s); print(d.size, d.rows(numpy.arange(2))['y'].tolist(), 'latentc' in sys.modules)"
    )
    for kind in ("parquet", "webdataset"):
        data = data_of(kind, tmp_path / f"{kind}-set", **KINDS[kind](tmp_path / f"{kind}-set"))
        (tmp_path / kind / "latentc_support").mkdir(parents=True)
        for name, text in data_files(data).items():
            (tmp_path / kind / "latentc_support" / name).write_text(text)
        (tmp_path / f"{kind}.json").write_text(json.dumps(data.settings()))
        command = [sys.executable, "-I", "-c", script, str(tmp_path / kind), str(tmp_path / f"{kind}.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.stdout.split("\n")[0] == "9 [0, 1] False", done.stderr


OWN = ("archive", "arrays", "arrow", "moments", "pictures")


def test_every_kind_of_project_has_what_it_imports(tmp_path: Path) -> None:
    import ast

    for kind in (*KINDS, "edm_latents", "dit_features"):
        shape = [3, SIDE, SIDE] if kind in KINDS else [4, 4, 4]
        for augment in (0, 0.5) if kind in KINDS else (0,):
            extra = {"augment": augment} if augment else {}
            files = data_files(data_of(kind, tmp_path, shape=shape, **extra))
            named = {
                n.module for text in files.values() for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)
            }
            missing = {n for n in named if n and f"{n}.py" not in files and n in OWN}
            assert not missing and ("augment.py" in files) == bool(augment)


def test_imagenet_layouts(tmp_path: Path) -> None:
    imagenet(tmp_path / "own")
    kaggle = tmp_path / "kaggle"
    imagenet(kaggle)
    inner = kaggle / "ILSVRC" / "Data" / "CLS-LOC"
    inner.mkdir(parents=True)
    (kaggle / "train").rename(inner / "train")
    (inner / "val").mkdir()
    truth = [2, 0, 1, 1]
    for i in range(4):
        (inner / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG").write_bytes(png(PIXELS[i]))
    rows = [f"ILSVRC2012_val_{i + 1:08d},{SYNSETS[t]} 1 2 3 4 {SYNSETS[t]} 5 6 7 8" for i, t in enumerate(truth)]
    with pytest.raises(ValueError, match=r"labels of .* are missing: put LOC_val_solution.csv or"):
        open_dataset(settings_of("imagenet", kaggle, part="val"))
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]))
    found = open_dataset(settings_of("imagenet", kaggle, part="val"))
    assert found.rows(np.arange(4))["y"].tolist() == truth
    assert open_dataset(settings_of("imagenet", kaggle)).size == COUNT
    # The development kit numbers classes in another order.
    (kaggle / "LOC_val_solution.csv").unlink()
    kit = kaggle / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    numbers = {0: 3, 1: 1, 2: 2}
    kinds = [("ILSVRC2012_ID", float), ("WNID", object), ("words", object)]
    meta = np.array([(numbers[i], SYNSETS[i], NAMES[i]) for i in range(3)] + [(1001, "n00000000", "animal")], kinds)
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(kit / "meta.mat", {"synsets": meta})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(str(numbers[t]) for t in truth))
    assert open_dataset(settings_of("imagenet", kaggle, part="val")).rows(np.arange(4))["y"].tolist() == truth
    (kaggle / "LOC_synset_mapping.txt").unlink()
    assert class_names(settings_of("imagenet", kaggle)) == NAMES
    # Folders of synsets under val, and `path` as the training folder itself.
    (tmp_path / "own" / "val" / SYNSETS[1]).mkdir(parents=True)
    (tmp_path / "own" / "val" / SYNSETS[1] / "a.JPEG").write_bytes(png(PIXELS[0]))
    assert open_dataset(settings_of("imagenet", tmp_path / "own", part="val")).rows(np.arange(1))["y"].tolist() == [1]
    assert open_dataset(settings_of("imagenet", tmp_path / "own" / "train")).size == COUNT
    with pytest.raises(ValueError, match="no folder `train`"):
        open_dataset(settings_of("imagenet", tmp_path / "nowhere"))


def moments_of(name: str) -> np.ndarray:
    return LATENTS[int(name)]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_latents_of_edm2(tmp_path: Path) -> None:
    LATENTS[:, 4:] = np.abs(LATENTS[:, 4:])
    archive(tmp_path / "set", {f"00000/img-mean-std-{i:08d}.npy": npy(LATENTS[i]) for i in EVERY})
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in (tmp_path / "set").rglob("*.*"):
            file.write(path, path.relative_to(tmp_path / "set"))
    folder, zipped = (
        open_dataset(settings_of("edm_latents", tmp_path / p, shape=[4, 4, 4])) for p in ("set", "set.zip")
    )
    mean, std = (np.array(v, np.float32).reshape(1, 4, 1, 1) for v in (MEAN, STD))
    np.testing.assert_allclose(folder.rows(EVERY)["x"], (LATENTS[:, :4] - mean) / std * 0.5, atol=1e-6)
    np.testing.assert_array_equal(folder.rows(EVERY)["y"], LABELS)
    a, b = (found.rows(EVERY, np.random.default_rng(3))["x"] for found in (folder, pickle.loads(pickle.dumps(zipped))))
    np.testing.assert_array_equal(a, b)
    draws = np.stack([zipped.rows(EVERY, np.random.default_rng(i))["x"] for i in range(400)])
    np.testing.assert_allclose(draws.std(0), LATENTS[:, 4:] / std * 0.5, rtol=0.25, atol=1e-3)
    for path, shape, said in (
        ("none.zip", [4, 4, 4], "no such file or folder"),
        ("set", [4, 8, 8], "have shape [4, 4, 4], but the model takes [4, 8, 8]"),
    ):
        with pytest.raises(ValueError) as caught:
            open_dataset(settings_of("edm_latents", tmp_path / path, shape=shape))
        assert said in str(caught.value)
    (tmp_path / "set" / "dataset.json").write_text('{"labels": null}')
    with pytest.raises(ValueError, match="it has no labels"):
        open_dataset(settings_of("edm_latents", tmp_path / "set", shape=[4, 4, 4]))
    (tmp_path / "set" / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"dataset.json in .* cannot be read"):
        open_dataset(settings_of("edm_latents", tmp_path / "set", shape=[4, 4, 4]))


def test_features_of_dit(tmp_path: Path) -> None:
    for name in ("imagenet256_features", "imagenet256_labels"):
        (tmp_path / name).mkdir()
    for i in EVERY:
        np.save(tmp_path / "imagenet256_features" / f"{i}.npy", LATENTS[i, None])
        np.save(tmp_path / "imagenet256_labels" / f"{i}.npy", LABELS[i, None])
    plain = open_dataset(settings_of("dit_features", tmp_path, shape=[8, 4, 4])).rows(EVERY[::-1])
    np.testing.assert_array_equal(plain["x"], LATENTS[::-1])
    np.testing.assert_array_equal(plain["y"], LABELS[::-1])
    source = Real(data_of("dit_features", tmp_path, shape=[8, 4, 4]), None, "features", most=4)  # labels not known
    assert source.size == 4 and source.chunk(0, 4)[1] is not None
    drawn = open_dataset(settings_of("dit_features", tmp_path, shape=[4, 4, 4], moments="log_variance", scale=0.5))
    np.testing.assert_allclose(drawn.rows(EVERY)["x"], LATENTS[:, :4] * 0.5, atol=1e-6)
    noise = np.random.default_rng(3).standard_normal((COUNT, 4, 4, 4), dtype=np.float32)
    wanted = (LATENTS[:, :4] + np.exp(LATENTS[:, 4:] / 2) * noise) * 0.5
    np.testing.assert_allclose(drawn.rows(EVERY, np.random.default_rng(3))["x"], wanted, atol=1e-5)
    (tmp_path / "imagenet256_labels" / "8.npy").unlink()
    with pytest.raises(ValueError, match=r"8.npy cannot be read as an .npy file of numbers"):
        drawn.rows(EVERY)
    with pytest.raises(ValueError, match=r"has no folder \*features"):
        open_dataset(settings_of("dit_features", tmp_path / "none", shape=[4, 4, 4]))


def test_columns_of_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    x = LATENTS[:, :4]
    pq.write_table(pa.table({"latent": x.reshape(COUNT, -1).tolist(), "y": LABELS}), tmp_path / "set.parquet")
    settings = settings_of("parquet", tmp_path / "set.parquet", shape=[4, 4, 4], keys={"x": "latent"})
    found = open_dataset(settings)
    rows = found.rows(np.array([4, 0]))
    np.testing.assert_array_equal(rows["x"], x[[4, 0]])
    assert rows["y"].tolist() == LABELS[[4, 0]].tolist()
    for change, said in (
        ({"keys": {"x": "pixels"}}, "no column `pixels`; columns: latent, y"),
        ({"keys": {"x": "latent"}, "shape": [4, 8, 8]}, "the model takes"),
        ({"keys": {"x": "latent"}, "classes": 2}, "values of `y` run from 0 to 2"),
    ):
        with pytest.raises(ValueError, match=said):
            asked = {"shape": [4, 4, 4], **change}
            open_dataset(settings_of("parquet", tmp_path / "set.parquet", **asked)).rows(EVERY)


def test_parquet_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "set")
    settings = settings_of("parquet", tmp_path / "set")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"run `python -m latentc_support.data` once, before torchrun"):
        open_dataset(settings)
    monkeypatch.delenv("WORLD_SIZE")
    open_dataset(settings)
    (copy,) = tmp_path.glob("*.arrow")
    written = copy.stat().st_mtime_ns
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert open_dataset(settings).size == COUNT and copy.stat().st_mtime_ns == written
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["set", copy.name])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_or_damaged(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none"):
        open_dataset(settings_of(kind, tmp_path / "none"))
    settings = settings_of(kind, tmp_path / "set", **KINDS[kind](tmp_path / "set"))
    pattern = {"parquet": "*.parquet", "huggingface": "train/*.arrow", "webdataset": "*.tar"}.get(kind, "**/*0.*")
    victim = sorted(p for p in (tmp_path / "set").glob(pattern) if p.suffix != ".json")[0]
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 3])
    with pytest.raises(ValueError, match=r"cannot be read"):
        open_dataset(settings).rows(EVERY)
    if kind in KINDS:
        settings["fields"]["x"]["medium"] = "audio"
        with pytest.raises(ValueError):
            open_dataset(settings)


def test_a_first_stage_can_encode_them() -> None:
    for kind in KINDS:
        spec = load_spec("dit", overrides=[f"data.kind={kind}"])
        files = data_files(spec.data)
        assert f"{kind}.py" in files and "pictures.py" in files and "open_pictures" in files["dataset.py"]
        assert spec.data.holds_images


def test_the_decoder_inverts_the_normalisation(tmp_path: Path) -> None:
    """Samples of a model of EDM2's latents are decoded as the raw latents they stand for."""
    stage = tmp_path / "stage.yaml"
    stage.write_text(
        "latentc: 1\nextends: sd_vae\nname: stage\nbackbone: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4}\n"
    )
    first = f"first_stage: {{spec: '{stage}', weights: none.safetensors}}"
    data = f"data={{kind: edm_latents, classes: 3, shape: [4, 4, 4], {first}}}"
    small = ["backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler={kind: ddim, steps: 1}"]
    lowered = lower(load_spec("dit", overrides=[data, *small]))
    fn = lowered.module.functions[lowered.module.entries[lowered.programs[0].entry]]
    constants = {n.outputs[0]: n.attrs["value"] for n in fn.nodes if n.op == "constant"}
    add = next(n for n in fn.nodes if n.op == "add" and n.outputs[0].name.startswith("latents"))
    div = next(n for n in fn.nodes if n.outputs[0] is add.inputs[0])
    np.testing.assert_allclose(constants[add.inputs[1]].ravel(), MEAN)
    assert div.op == "div"
    np.testing.assert_allclose(constants[div.inputs[1]].ravel(), 0.5 / np.array(STD))
    with pytest.raises(DiagnosticError, match="4 means and 4 deviations for 8 channels"):
        load_spec("digits_dit", overrides=["data={kind: edm_latents, classes: 3, shape: [8, 4, 4]}"])


def test_selections_of_rows_are_refused(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"x": [[0.0]] * 4})
    whole.select([2, 0]).save_to_disk(str(tmp_path / "set"))
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    (tmp_path / "set" / "state.json").write_text(json.dumps({**state, "_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(ValueError, match="flatten_indices"):
        open_dataset(settings_of("huggingface", tmp_path / "set"))


CAPTIONS = [["ab", "second"] if i % 2 else ["cd b"] for i in EVERY]


def captioned(kind: str, folder: Path) -> None:
    """The first of several captions in a column, or in a file or a key of each sample."""
    if kind == "webdataset":
        folder.mkdir()
        with tarfile.open(folder / "0.tar", "w") as tar:
            for i, (caption, *_) in enumerate(CAPTIONS):
                told = {"txt": caption.encode()} if i % 2 else {"json": json.dumps({"caption": caption}).encode()}
                for suffix, content in {"png": png(PIXELS[i]), **told}.items():
                    info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    plain = [caption for caption, *_ in CAPTIONS]
    images = {"image": [{"bytes": png(p), "path": None} for p in PIXELS], "text": CAPTIONS}
    latents = {"x": PIXELS.reshape(len(PIXELS), -1).tolist(), "caption": CAPTIONS if "lists" in kind else plain}
    pq.write_table(pa.table(images if kind == "parquet" else latents), folder / "0.parquet")


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "rows of parquet", "rows of parquet with lists"])
@pytest.mark.parametrize("masked", [True, False])
def test_images_and_rows_have_captions(kind: str, masked: bool, tmp_path: Path) -> None:
    captioned(kind, tmp_path / "set")
    rows = kind.startswith("rows")
    text = {"shape": (6,), "classes": 8, "medium": "text", "alphabet": "_.abcd s", "end": 1}
    fields = {
        "x": {"shape": (SIDE, SIDE, 3)} if rows else {"shape": (3, SIDE, SIDE), "medium": "image"},
        "caption": text,
    }
    fields |= {"caption_mask": {"shape": (6,), "dtype": "bool"}} if masked else {}
    of_kind = WebDataset if kind == "webdataset" else Parquet
    settings = of_kind.model_validate(
        {"kind": of_kind.EXAMPLE["kind"], "path": str(tmp_path / "set"), "fields": fields}
    ).settings()
    made = pickle.loads(pickle.dumps(open_dataset(settings))).rows(EVERY)  # as workers get it
    own = [[*("_.abcd s".index(c) for c in caption[:5]), 1] for caption, *_ in CAPTIONS]
    fill = 0 if masked else 1
    assert made["caption"].tolist() == [one + [fill] * (6 - len(one)) for one in own]
    assert set(made) == {"x", "caption", *(["caption_mask"] if masked else [])}
    if masked:
        assert made["caption_mask"].tolist() == [[i < len(one) for i in range(6)] for one in own]
