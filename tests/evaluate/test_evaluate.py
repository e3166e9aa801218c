"""`latentc evaluate` from a bundle or a file to figures: the same in any chunks, continued where it stopped."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundles import TINY_DIT, tiny_bundle

from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.extractors.digits import Digits
from latentc.evaluate.metrics import FIGURES
from latentc.evaluate.sources import Generated, InFiles, Real
from latentc.evaluate.store import features_of
from latentc.samples.job import Job, in_process
from latentc.samples.pictures import png_from_picture
from latentc.spec import load_spec
from latentc_runtime import load

pytest.importorskip("sklearn")


def quiet(done: int, total: int, stage: str) -> None:
    pass


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle("digits_dit", tmp_path_factory.mktemp("evaluated") / "bundle", TINY_DIT, max_batch=None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The training half as pictures u8[898, 8, 8, 1], and its labels."""
    data = Real(load_spec("digits_dit").data)
    samples, labels = data.chunk(0, data.size)
    assert labels is not None
    return samples.pixels(), labels


def test_a_sample_is_the_same_in_any_chunk(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTC_CACHE", "off")
    source = Generated(load(bundle, "cpu"), 20, seed=5)
    whole, labels = source.chunk(0, 20)
    part, own = source.chunk(13, 17)
    assert labels is not None and own is not None
    assert labels.tolist() == [i % 10 for i in range(20)] and own.tolist() == labels[13:17].tolist()
    assert whole.array.dtype == np.uint8 and whole.array.std() > 10
    np.testing.assert_allclose(part.array.astype(int), whole.array[13:17], atol=1)  # of rounding
    pipe = load(bundle, "cpu")
    sampled = pipe.images(pipe.sample(classes=[3, 4], seeds=[18, 19]))
    np.testing.assert_allclose(sampled.astype(int), whole.array[13:15], atol=1)
    (found, _), (again, _) = (features_of(source, {"digits": Digits()}, quiet, n)["digits"] for n in (7, 20))
    np.testing.assert_allclose(found.features, again.features, atol=0.1)


def test_sets_of_samples_are_judged_as_their_bundle(bundle: Path, cache: Path, tmp_path: Path) -> None:
    """In every format; and chunks that another process draws, in any order, change nothing."""
    wanted = api.evaluate(bundle, count=40, metrics=["fd,accuracy,recall"]).runs[0].result
    for format in ("folder", "npz", "parquet"):
        place = tmp_path / ("set.npz" if format == "npz" else format)
        api.sample_set(bundle, place, format, count=40)  # type: ignore[arg-type]
        found = api.evaluate(place, "digits", metrics=["fd,accuracy,recall"], features=["digits"]).runs[0].result
        assert found.figures == pytest.approx(wanted.figures, rel=1e-6), format
        assert found.by_class.keys() == wanted.by_class.keys()

    def backwards(job: Job, chunks: Any) -> Any:
        yield from reversed([*in_process(job, chunks)])

    plain, spread = (Generated(load(bundle, "cpu"), 40, executor=e) for e in (None, backwards))
    parts = [range(i, i + 8) for i in range(0, 40, 8)]
    drawn = dict(spread.stream(parts))
    assert list(drawn) == parts[::-1]
    for part, (samples, labels) in plain.stream(parts):
        np.testing.assert_array_equal(samples.array, drawn[part][0].array)
        np.testing.assert_array_equal(labels, drawn[part][1])


def test_a_set_is_read_in_any_chunks(tmp_path: Path) -> None:
    pictures = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    np.savez(tmp_path / "s.npz", arr_0=pictures, arr_1=np.arange(30) % 10)
    held = InFiles(tmp_path / "s.npz")
    for size in (7, 30, 4):
        parts = [range(i, min(i + size, 30)) for i in range(0, 30, size)]
        for part, (samples, labels) in held.stream(parts[1:] if len(parts) > 1 else parts):
            assert samples.array[:, 0, 0, 0].tolist() == list(part) and labels is not None
            assert labels.tolist() == [i % 10 for i in part]
    assert held.at([21, 3, 22]).array[:, 0, 0, 0].tolist() == [21, 3, 22]
    assert held.chunk(5, 9)[0].array[:, 0, 0, 0].tolist() == [5, 6, 7, 8]


def test_an_interrupted_evaluation_continues(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in its third chunk, it does not draw the first two again, and ends with the same features."""
    pipe, drawn = load(bundle, "cpu"), []
    chunk = Generated.chunk

    def counted(self: Generated, start: int, stop: int) -> Any:
        drawn.append(start)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return chunk(self, start, stop)

    monkeypatch.setattr(Generated, "chunk", counted)
    with pytest.raises(KeyboardInterrupt):
        features_of(Generated(pipe, 40), {"digits": Digits()}, quiet, 8)
    found, labels = features_of(Generated(pipe, 40), {"digits": Digits()}, quiet, 8)["digits"]
    assert drawn == [0, 8, 16, 16, 24, 32]
    assert len(found) == 40 and labels is not None and labels.tolist() == [i % 10 for i in range(40)]
    features_of(Generated(pipe, 48), {"digits": Digits()}, quiet, 8)
    assert drawn[6:] == [40]  # more samples need only the new ones
    for file in cache.rglob("8-16.npz"):
        file.write_bytes(b"PK\x03\x04 damaged")
    again, _ = features_of(Generated(pipe, 40), {"digits": Digits()}, quiet, 8)["digits"]
    assert drawn[7:] == [8]
    np.testing.assert_array_equal(again.features, found.features)
    features_of(Generated(pipe, 8, seed=1), {"digits": Digits()}, quiet, 8)
    features_of(Generated(pipe, 8, settings={"guidance": 2.0}), {"digits": Digits()}, quiet, 8)
    assert drawn[8:] == [0, 0]  # other samples


def test_the_classifier_of_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    held_out = Real(load_spec("digits_dit").data.held_out())
    samples, labels = held_out.chunk(0, held_out.size)
    found = Digits()(samples)
    assert found.features.shape == (899, 64) and found.logits is not None
    assert np.mean(found.logits.argmax(1) == labels) >= 0.975
    tokens, _ = Real(load_spec("digits_llamagen").data.held_out()).chunk(0, 899)
    np.testing.assert_allclose(Digits()(tokens).features, found.features, atol=1e-4)  # the same digits as tokens
    pictures = samples.pixels()
    assert pictures.dtype == np.uint8 and pictures.shape == (899, 8, 8, 1)


def test_the_classifier_of_digits_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained once; a damaged file is made again."""
    from latentc.evaluate.extractors import digits as module

    trained = module._layers()
    monkeypatch.setattr(module, "classifier", lambda: SimpleNamespace(coefs_=list(w), intercepts_=list(b)))
    w, b = zip(*trained, strict=True)
    module._layers.cache_clear()
    first = module._layers()
    (file,) = cache.glob("digits-*.npz")
    monkeypatch.setattr(module, "classifier", None)
    module._layers.cache_clear()
    for pairs in (first, module._layers()):
        for ours, theirs in zip(pairs, trained, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
    file.write_bytes(b"PK\x03\x04 damaged")
    module._layers.cache_clear()
    with pytest.raises(TypeError):
        module._layers()  # it would train again
    monkeypatch.undo()
    module._layers.cache_clear()


def test_training_samples_are_found_to_be_copies(digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    pictures, labels = digits
    np.savez(tmp_path / "copied.npz", arr_0=pictures, arr_1=labels)
    found = api.evaluate(tmp_path / "copied.npz", "digits", training="digits")
    figures = found.runs[0].result.figures
    assert set(figures) == {*FIGURES, "fd_digits"} - {"sfid", "fd"}
    assert figures["accuracy"] > 0.99 and figures["nearest_ratio"] < 0.05 and figures["copies"] > 0.99
    assert figures["fd_digits"] < 0.5 and figures["recall"] > 0.6 and figures["coverage"] > 0.85
    assert set(found.runs[0].result.by_class) == set(range(10))
    wrong = np.savez(tmp_path / "wrong.npz", arr_0=pictures, arr_1=(labels + 1) % 10)
    found = api.evaluate(tmp_path / "wrong.npz", "digits", metrics=["accuracy"])
    assert wrong is None and found.runs[0].result.figures == {"accuracy": pytest.approx(0, abs=0.01)}


def test_statistics_stand_for_the_samples(digits: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Written, then read in place of the samples; an archive with both, as ADM's, takes FID from the statistics."""
    pictures, labels = digits
    np.savez(tmp_path / "s.npz", arr_0=pictures[:400], arr_1=labels[:400])
    fid = {"metrics": ["fd"], "features": ["digits"]}
    stats = tmp_path / "stats.npz"
    first = api.evaluate(tmp_path / "s.npz", "digits", statistics=stats, **fid).runs[0].result.figures  # type: ignore[arg-type]
    second = api.evaluate(tmp_path / "s.npz", stats, **fid).runs[0].result  # type: ignore[arg-type]
    assert second.figures == {"fd_digits": pytest.approx(first["fd_digits"], rel=1e-9)}
    with np.load(stats) as held:
        np.savez(tmp_path / "both.npz", arr_0=pictures[400:], mu=held["mu"] + 1, sigma=held["sigma"])
    both = api.evaluate(tmp_path / "s.npz", tmp_path / "both.npz", features=["digits"]).runs[0].result
    assert both.figures["fd_digits"] > first["fd_digits"] + 30 and both.figures["recall"] > 0.5


def test_the_command(bundle: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(bundle), "--count", "40", "--metric", "fd,accuracy", "--guidance", "1,2"]) == 0
    out = capsys.readouterr().out
    assert "held-out data (899 samples)" in out and "a classifier of scikit-learn's digits" in out
    lines = [line.split() for line in out.splitlines()]
    assert "comparable: only with figures of the same features, not with published ones" in out
    assert ["guidance", "fd_digits", "↓", "accuracy", "↑"] in lines
    rows = lines.index(["guidance", "fd_digits", "↓", "accuracy", "↑"])
    assert [line[0] for line in lines[rows + 1 : rows + 3]] == ["1", "2"]
    assert run(["evaluate", str(bundle), "--count", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["count"] == 40
    assert set(found["runs"][0]["figures"]) == {*FIGURES, "fd_digits"} - {"sfid", "fd"}
    assert "not FID" in found["figures"]["fd_digits"]["about"] and "published" in found["comparable"]
    assert found["figures"]["recall"]["better"] == "higher" and len(found["runs"][0]["classes"]) == 10
    assert found["runs"][0]["not_computed"].keys() == {"sfid"}


def test_data_without_a_classifier_have_principal_components(tmp_path: Path, cache: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 60, 6, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=a)
    np.savez(tmp_path / "b.npz", arr_0=b)
    found = api.evaluate(tmp_path / "a.npz", tmp_path / "b.npz")
    assert found.facts()["features"] == "principal components of the reference"
    assert {"fd_principal", "recall"} <= set(found.runs[0].result.figures)
    assert "accuracy" in found.runs[0].result.missing


def test_a_folder_of_images_is_a_reference(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    from PIL import Image

    pictures, labels = digits
    for i in range(60):
        folder = tmp_path / "images" / str(labels[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[i, ..., 0]).save(folder / f"{i}.png")
    np.savez(tmp_path / "s.npz", arr_0=pictures[:60], arr_1=labels[:60])
    found = api.evaluate(tmp_path / "s.npz", tmp_path / "images", features=["digits"], metrics=["fd,accuracy,recall"])
    figures = found.runs[0].result.figures
    assert figures["fd_digits"] == pytest.approx(0, abs=1e-3) and figures["recall"] == 1


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--metric", "fdi"], "E0714", "did you mean `fd`"),
        (["--features", "digit"], "E0721", "did you mean `digits`"),
        (["--features", "inception"], "E0721", "need a file"),
        (["--features", "inception=none.pth"], "E0401", "none.pth"),
        (["--features", "own.yaml"], "E0401", "own.yaml"),
        (["--reference", "nothing"], "E0401", "nothing"),
        (["--reference", "image_folder"], "E0722", "image_folder"),
        (["--reference", "empty.npz"], "E0722", "neither pictures nor statistics"),
        (["--reference", "shape.npz"], "E0720", "but shape.npz (3 samples) is array"),
        (["--reference", "stats.npz"], "E0722", "statistics"),
        (["--reference", "stats.npz", "--features", "digits"], "E0722", "statistics of 3 features"),
        (["--classifier", "principal"], "E0721", "not a classifier"),
        (["--guidance", "1,x"], "E0701", "not a number"),
        (["--setting", "warmth=1"], "E0608", "warmth"),
        (["--guidance", "1,2", "--setting", "guidance=2"], "E0608", "given twice"),
    ],
)
def test_mistakes_are_diagnostics(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    arguments: list[str],
    code: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("empty.npz", other=np.zeros(3))
    np.savez("shape.npz", arr_0=np.zeros((3, 8, 8), np.uint8))
    np.savez("stats.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert run(["evaluate", str(bundle), "--count", "16", "--metric", "fd", *arguments]) == 1
    error = capsys.readouterr().err
    assert f"error[{code}]" in error and words in error


@pytest.mark.parametrize("format", ["folder", "npz", "webdataset", "parquet"])
def test_a_part_of_a_set_is_drawn_evenly_over_its_classes(
    format: str, digits: tuple[np.ndarray, np.ndarray], cache: Path, tmp_path: Path
) -> None:
    """Of samples that lie class by class, and of the reference; the same ones by the same seed, and in any chunks."""
    order = np.argsort(digits[1], kind="stable")
    pictures, labels = digits[0][order], digits[1][order]
    place = write_set(format, tmp_path / "set", pictures, labels)
    source = InFiles(place, 300)
    samples, drawn = source.chunk(0, 300)
    assert drawn is not None and source.size == 300
    np.testing.assert_allclose(np.bincount(drawn, minlength=10), np.bincount(labels) * 300 / 898, atol=2)
    np.testing.assert_array_equal(samples.array, pictures[source.index])
    np.testing.assert_array_equal(drawn, labels[source.index])
    np.testing.assert_array_equal(source.at([299, 7, 8]).array, pictures[source.index[[299, 7, 8]]])
    for part, (some, own) in source.stream([range(290, 300), range(3, 7)]):
        np.testing.assert_array_equal(some.array, samples.array[part.start : part.stop])
        np.testing.assert_array_equal(own, drawn[part.start : part.stop])
    assert (InFiles(place, 300, 1).index != source.index).any() and InFiles(place, 300, 1).identity != source.identity
    found = api.evaluate(place, place, ["fd"], ["digits"], count=300, most=400, seed=5)
    facts = found.facts()
    assert facts["samples"].endswith("(300 of 898 samples, drawn evenly over 10 classes with seed 5)")
    assert facts["reference"].endswith("(400 of 898 samples, drawn evenly over 10 classes with seed 0)")
    assert found.runs[0].result.compared.reference.count == 400
    first = write_set("npz", tmp_path / "first", pictures[:300], labels[:300])
    of_first = api.evaluate(first, place, ["fd"], ["digits"]).runs[0].result.figures["fd_digits"]
    assert found.runs[0].result.figures["fd_digits"] < of_first / 4


def write_set(format: str, path: Path, pictures: np.ndarray, labels: np.ndarray) -> Path:
    """Pictures as others store them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [png_from_picture(picture) for picture in pictures]
    if format == "npz":
        np.savez(path.with_suffix(".npz"), arr_0=pictures, arr_1=labels)
        return path.with_suffix(".npz")
    path.mkdir()
    if format == "parquet":
        pq.write_table(pa.table({"image": files, "label": labels}), path / "0.parquet", row_group_size=100)
    if format == "webdataset":
        with tarfile.open(path / "0.tar", "w") as tar:
            for i, file in enumerate(files):
                for suffix, content in (("png", file), ("cls", str(labels[i]).encode())):
                    info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    for i, file in enumerate(files if format == "folder" else ()):
        (path / str(labels[i])).mkdir(exist_ok=True)
        (path / str(labels[i]) / f"{i:04d}.png").write_bytes(file)
    return path


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"arr_0": np.zeros((8, 8, 8, 1), np.float32)}, "the samples are array"),
        ({"arr_0": np.zeros((8, 8, 8, 1), np.uint16)}, "the samples are array"),
        ({"arr_0": np.zeros((8, 8, 8, 1), np.uint8), "arr_1": np.full(8, 0.5)}, "`arr_1` holds 0.5"),
        (
            {"arr_0": np.zeros((8, 8, 8, 1), np.uint8), "arr_1": np.eye(8, dtype=np.uint8)},
            "`arr_1` is [8, 8], not one class",
        ),
    ],
)
def test_samples_that_do_not_say_what_they_are(arrays: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DiagnosticError) as caught:
        api.evaluate(tmp_path / "s.npz", "digits", features=["principal"])
    assert said in str(caught.value)


def test_samples_need_a_reference(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(DiagnosticError, match="no reference to compare"):
        api.evaluate(tmp_path / "s.npz")
