"""Sample sets: each format holds what was sampled, is continued where it stopped, and is read by others' libraries."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny_bundles as tiny
from PIL import Image
from test_runtime_conditions import CONDITIONS, MEL, SETTINGS
from test_runtime_conditions import bundle as several_conditions

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.samples.job import Job, in_process
from latentc.samples.sets import FORMATS, open_set, write
from latentc_runtime import load
from latentc_runtime.sources import Condition

NAMES = tuple(f"class {i}, number {i}" for i in range(10))
COUNT, SEED, SHARD = 30, 5, 8
LABELS = np.arange(COUNT) % 10


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tiny.host_bundle(tmp_path_factory.mktemp("sets") / "bundle")
    programs = load(folder, "cpu").manifest.programs
    condition = Condition("class", "label", classes=10, names=NAMES)
    return tiny.write(folder, programs, tiny.PICTURE, ["step.onnx"], conditions=(condition,))


@pytest.fixture(scope="module")
def pictures(bundle):
    pipe = load(bundle, "cpu")
    return pipe.images(pipe.sample(LABELS, SEED))


def job(bundle, **changes):
    asked = {"count": COUNT, "seed": SEED, "label": "class", "labels": LABELS, "device": "cpu"}
    return Job(bundle, **{**asked, **changes})


def place(folder, format):
    return folder / ("set.npz" if format == "npz" else "set")


def contents(path: Path):
    """{file: bytes} of a set."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_sampled_is_read_back(format, bundle, pictures, tmp_path):
    told = []
    path = place(tmp_path, format)
    asked = {"count": COUNT, "chunk": 7, "shard": SHARD, "device": "cpu"}
    found = api.sample_set(bundle, path, format, "all", 1, SEED, **asked, progress=lambda *a: told.append(a))
    assert told == [(0, 30), (7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]
    assert (found.format, found.count, found.class_names) == (format, COUNT, NAMES)
    assert (found.about["seed"], found.about["model"], found.about["count"]) == (SEED, "tiny", COUNT)
    parts = list(found.chunks(4))
    assert [p.start for p in parts][:3] == [0, 4, 8] and max(len(p.arrays) for p in parts) == 4
    np.testing.assert_array_equal(np.concatenate([p.arrays for p in parts]), pictures)
    np.testing.assert_array_equal(np.concatenate([p.seeds for p in parts]), SEED + np.arange(COUNT))
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), LABELS)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_set_is_continued(format, bundle, tmp_path):
    whole, path = place(tmp_path / "whole", format), place(tmp_path, format)
    whole.parent.mkdir()
    write(job(bundle), whole, format, chunk=5, shard=SHARD)
    asked_for = []

    def interrupted(given, chunks):
        for rows, arrays in in_process(given, chunks):
            if rows.start >= 15:
                raise KeyboardInterrupt
            yield rows, arrays

    def backwards(given, chunks):  # as workers may give them
        asked_for.extend(chunks)
        yield from reversed(list(in_process(given, chunks)))

    with pytest.raises(KeyboardInterrupt):
        write(job(bundle), path, format, executor=interrupted, chunk=5, shard=SHARD)
    write(job(bundle), path, format, executor=backwards, chunk=4, shard=SHARD)
    assert 0 < asked_for[0].start <= 15  # not all over again
    if format != "parquet":  # whose files also tell how the rows came
        assert contents(path) == contents(whole)
    for a, b in zip(open_set(path).chunks(7), open_set(whole).chunks(7), strict=True):
        assert all((getattr(a, name) == getattr(b, name)).all() for name in ("arrays", "seeds", "labels"))

    def nothing(given, chunks):
        raise AssertionError("the set is complete")

    before = contents(path)
    write(job(bundle), path, format, executor=nothing, shard=SHARD)
    assert contents(path) == before
    more = np.arange(COUNT + 1) % 10
    for other in (job(bundle, seed=6), job(bundle, labels=LABELS[::-1].copy()), job(bundle, count=31, labels=more)):
        with pytest.raises(DiagnosticError) as caught:
            write(other, path, format, executor=nothing, shard=SHARD)
        assert caught.value.diagnostics[0].code == "E0727"
    assert contents(path) == before


def test_only_chunks_are_held(bundle, tmp_path):
    """A chunk is written before the next one is drawn."""
    path, there = tmp_path / "set", []

    def watched(given, chunks):
        for rows, arrays in in_process(given, chunks):
            there.append(len(list(path.glob("*.png"))))
            yield rows, arrays

    write(job(bundle), path, executor=watched, chunk=10)
    assert there == [0, 10, 20]


def test_the_folder_is_a_table_and_pngs(bundle, pictures, tmp_path):
    write(job(bundle), tmp_path / "set")
    with (tmp_path / "set" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[13] == {"file": "00013.png", "seed": "18", "class": "3", "name": "class 3"}
    with Image.open(tmp_path / "set" / "00013.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pictures[13, ..., 0])


def test_the_npz_is_that_of_adm(bundle, pictures, tmp_path):
    write(job(bundle), tmp_path / "set.npz", "npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["arr_0"], pictures)
        np.testing.assert_array_equal(found["arr_1"], LABELS)
        assert found["arr_0"].dtype == np.uint8 and found["arr_1"].dtype == np.int64
        assert found["class_names"].tolist() == list(NAMES)
    foreign = tmp_path / "adm.npz"
    np.savez_compressed(foreign, pictures, LABELS)
    (part,) = open_set(foreign).chunks(100)
    assert part.seeds is None and (part.arrays == pictures).all() and (part.labels == LABELS).all()


def test_webdataset_reads_the_shards(bundle, pictures, tmp_path):
    write(job(bundle), tmp_path / "set", "webdataset", shard=SHARD)
    files = sorted(map(str, (tmp_path / "set").glob("*.tar")))
    assert len(files) == 4
    webdataset = pytest.importorskip("webdataset")
    rows = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [row["json"]["seed"] for row in rows] == list(range(5, 35))
    assert rows[13]["cls"] == 3 and rows[13]["json"]["name"] == "class 3"
    assert (rows[13]["png"][..., :1] == pictures[13]).all()
    with tarfile.open(files[0]) as tar:
        assert tar.getnames()[:3] == ["00000000.cls", "00000000.json", "00000000.png"]


def test_datasets_reads_the_parquet_files(bundle, pictures, tmp_path):
    pytest.importorskip("pyarrow")
    write(job(bundle), tmp_path / "set", "parquet", shard=SHARD)
    import pyarrow.parquet as parquet

    schema = parquet.read_schema(tmp_path / "set" / "000000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, (tmp_path / "set").glob("*.parquet")))
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert len(found) == COUNT and found.features["label"].names == list(NAMES)
    row = found[13]
    assert (row["label"], row["seed"]) == (3, 18) and (np.asarray(row["image"]) == pictures[13, ..., 0]).all()


@pytest.mark.parametrize("format", ["npz", "webdataset", "parquet"])
def test_conditions_and_samples_that_are_no_images(format, tmp_path):
    folder = several_conditions(tmp_path / "bundle", CONDITIONS, SETTINGS)
    pipe = load(folder, "cpu")
    text = [[1, 2], [3], [4, 5, 6]]
    wanted = pipe.sample([2, 1, 0], 3, conditions={"mel": MEL, "text": text}, settings={"temperature": 0.9})
    given = {"mel": MEL, "text": text, "augment": np.zeros(2, np.float32)}
    asked = {"given": given, "settings": {"temperature": 0.9}, "chunk": 2, "device": "cpu"}
    found = api.sample_set(folder, place(tmp_path, format), format, [2, 1, 0], seed=3, **asked)
    (part,) = found.chunks()
    np.testing.assert_array_equal(part.arrays, wanted)
    assert part.arrays.dtype == np.float32 and found.about["settings"]["temperature"] == 0.9
    if format == "npz":
        np.testing.assert_array_equal(np.load(found.path)["condition.mel"], MEL)
    else:
        np.testing.assert_array_equal(np.load(found.path / "conditions.npz")["mel"], MEL)


def test_places_that_hold_something_else(bundle, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for path, format, said in (
        (tmp_path / "full", "folder", "holds other files"),
        (bundle, "webdataset", "holds a bundle"),
        (tmp_path / "full" / "thesis.tex", "parquet", "is a file"),
        (tmp_path / "no_suffix", "npz", "not the name of an .npz"),
    ):
        with pytest.raises(DiagnosticError, match=said):
            write(job(bundle), path, format)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_folder_of_classes_is_a_set(tmp_path):
    for name, value in (("b/0.png", 1), ("a/1.png", 2), ("a/0.png", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(tmp_path / name)
    found = open_set(tmp_path)
    (part,) = found.chunks()
    assert found.class_names == ("a", "b") and part.labels.tolist() == [0, 0, 1] and part.seeds is None
    assert part.arrays[:, 0, 0, 0].tolist() == [3, 2, 1]
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "a" / "2.png")
    with pytest.raises(DiagnosticError, match="differ in size: 4×4×3 and 5×4×3"):
        list(open_set(tmp_path).chunks())


def test_damaged_sets_are_said_to_be(bundle, tmp_path):
    for format in FORMATS:
        path = place(tmp_path, format)
        write(job(bundle), path, format, shard=SHARD)
        held = [path] if path.is_file() else [p for p in path.iterdir() if p.suffix in (".png", ".tar", ".parquet")]
        victim = sorted(held)[0]
        content = victim.read_bytes()
        victim.write_bytes(content[: len(content) // 2])
        with pytest.raises(DiagnosticError) as caught:
            list(open_set(path).chunks())
        assert caught.value.diagnostics[0].code == "E0726"
        for file in held:
            file.unlink()
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    with pytest.raises(DiagnosticError, match="no such file"):
        open_set(tmp_path / "none")
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(DiagnosticError, match="holds no samples"):
        open_set(tmp_path / "text.txt")


def test_chunks_of_a_compressed_tar_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    """A tar that is compressed holds more than its size says, and files that no sample needs."""
    from latentc.samples import webdataset

    monkeypatch.setattr(webdataset, "LARGEST", 5000)
    with tarfile.open(tmp_path / "s.tar", "w:gz") as tar:
        for i in range(6):
            file = io.BytesIO()
            np.save(file, np.full((20, 20), i, np.float32))
            for suffix, content in (("npy", file.getvalue()), ("bin", bytes(4000))):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    chunks = list(webdataset.Reader(tmp_path / "s.tar").chunks())
    assert [(chunk.start, len(chunk.arrays)) for chunk in chunks] == [(0, 3), (3, 3)]
    monkeypatch.setattr(webdataset, "LARGEST", 1000)
    with pytest.raises(DiagnosticError, match=r"E0726.*has 1728 bytes"):
        list(webdataset.Reader(tmp_path / "s.tar").chunks())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: {**a, "arr_1": np.zeros(100_000, np.int64)},
        lambda a: {**a, "about": np.zeros(1 << 25, np.uint8)},
        lambda a: {"arr_0": np.zeros((2, 0), np.uint8)},
        lambda a: {"arr_0": np.array([{}], object)},
    ],
)
def test_archives_of_samples_that_would_fill_the_memory(tmp_path, spoil):
    arrays = spoil({"arr_0": np.zeros((2, 8, 8, 1), np.uint8)})
    np.savez_compressed(tmp_path / "s.npz", allow_pickle=True, **arrays)
    with pytest.raises(DiagnosticError, match="E0726"):
        open_set(tmp_path / "s.npz")
