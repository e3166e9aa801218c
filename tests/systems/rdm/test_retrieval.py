"""Neighbours as a condition: the index, the data of training, requests, and a bundle with an index beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from latentc.cli import app
from latentc.datasets import open_dataset
from latentc.datasets.neighbours import WithNeighbours
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime import BundleError, retrieval
from latentc_runtime.conditions import checked_given
from latentc_runtime.retrieval import Index, open_index, with_labels, write_index
from latentc_runtime.sources import Condition, RequestError

pytest.importorskip("usearch")

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((300, 16)).astype(np.float32) * RNG.uniform(0.5, 2.0, (300, 1)).astype(np.float32)
QUERIES = RNG.standard_normal((5, 16)).astype(np.float32)
LABELS = RNG.integers(0, 3, 300)
NEIGHBOURS = Condition("neighbours", "array", (4, 16), "f32", retrieved=True)


def nearest(queries: np.ndarray, metric: str, count: int) -> np.ndarray:
    """The entries nearest to each query, by comparison with every one in float64."""
    q, v = queries.astype(np.float64), VECTORS.astype(np.float64)
    if metric == "l2":
        distance = ((q[:, None] - v) ** 2).sum(-1)
    else:
        distance = -(q @ v.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(v, axis=1)
    return np.argsort(distance, axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("exact", [True, False])
def test_search_finds_the_nearest(metric: Any, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exact:
        monkeypatch.setattr(retrieval, "EXACT", 64)
    write_index(with_labels(VECTORS, LABELS, 3, metric), tmp_path)
    assert (tmp_path / "graph.usearch").exists() != exact
    index = open_index(tmp_path)
    assert (len(index), index.size, index.metric) == (300, 16, metric)
    found, wanted = index.search(QUERIES, 4), nearest(QUERIES, metric, 4)
    assert np.array_equal(found, wanted) if exact else (found == wanted).mean() > 0.8
    assert np.array_equal(index.neighbours(QUERIES, 4), VECTORS[found])


def test_the_query_of_a_class_is_the_mean_of_its_directions() -> None:
    index = with_labels(VECTORS, LABELS, 3)
    own = VECTORS[LABELS == 2]
    wanted = (own / np.linalg.norm(own, axis=1, keepdims=True)).mean(axis=0)
    assert index.queries is not None and np.allclose(index.queries[2], wanted, atol=1e-6)


def given(**values: Any) -> Any:
    index = with_labels(VECTORS, LABELS, 3)
    return checked_given([NEIGHBOURS], [], indexes={"neighbours": index}, **values)


def test_what_a_request_may_say() -> None:
    index, drawn = with_labels(VECTORS, LABELS, 3), VECTORS[:8].reshape(2, 4, 16)
    found = VECTORS[nearest(QUERIES, "cosine", 4)]
    rows = lambda value, **more: given(given={"neighbours": value}, **more).conditions["neighbours"]  # noqa: E731
    assert np.array_equal(rows(drawn), drawn)
    assert np.array_equal(rows(drawn[0], count=3), np.stack([drawn[0]] * 3))
    assert np.array_equal(rows(QUERIES), found)
    assert np.array_equal(rows(QUERIES[0]), found[:1])
    assert np.array_equal(rows({"query": QUERIES[:4]}), found[:4])  # [4, 16] alone would be neighbours
    of_classes = index.neighbours(index.queries[[2, 0]], 4)
    assert np.array_equal(rows({"class": [2, 0]}), of_classes)
    assert np.array_equal(given(classes=[2, 0]).conditions["neighbours"], of_classes)


def test_without_a_query_an_entry_is_drawn_by_the_seed() -> None:
    first, again = given(seeds=[5, 6]).conditions["neighbours"], given(seeds=[6]).conditions["neighbours"]
    assert np.array_equal(first[1:], again)
    assert all((sample[0] == VECTORS).all(axis=1).any() for sample in first)  # an entry is its own nearest neighbour


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 15)), "a query of `neighbours` has shape [2, 15]"),
        ({"query": np.full(16, np.nan)}, "a query of `neighbours` has shape [16]"),
        ({"query": "seven"}, "`neighbours` is not an array of numbers"),
        ({"colour": 3}, "condition `neighbours` holds colour"),
        ({}, "condition `neighbours` holds nothing"),
        ({"class": 3}, "no class 3"),
        ({"class": 0.5}, "`class` of `neighbours` must be an integer"),
        (np.zeros((2, 3, 16)), "condition `neighbours` has shape [3, 16]"),
    ],
)
def test_requests_that_do_not_fit(value: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        given(given={"neighbours": value})
    assert message in error.value.message


def test_without_an_index_a_request_gives_the_neighbours() -> None:
    with pytest.raises(RequestError, match="the condition `neighbours` is missing"):
        checked_given([NEIGHBOURS], [])
    with pytest.raises(RequestError, match=r"has shape \[5, 16\]"):
        checked_given([NEIGHBOURS], [], given={"neighbours": QUERIES})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ImportError("No module named 'usearch'")

    monkeypatch.setattr(retrieval, "_usearch", missing)
    with pytest.raises(RequestError, match="needs the package usearch") as error:
        given(given={"neighbours": QUERIES})
    assert "latentc[retrieval]" in error.value.help
    spec = load_spec("digits_rdm")
    with pytest.raises(ValueError, match=r"needs the package usearch.*latentc\[retrieval\]"):
        WithNeighbours(open_dataset(spec.data.settings()), _wanted(spec))


@pytest.mark.parametrize("damage", ["nothing there", "about", "vectors"])
def test_a_damaged_index_is_refused(damage: str, tmp_path: Path) -> None:
    if damage != "nothing there":
        write_index(with_labels(VECTORS), tmp_path)
    if damage == "about":
        (tmp_path / "about.json").write_text(json.dumps({"format": 9, "metric": "cosine"}))
    if damage == "vectors":
        np.save(tmp_path / "vectors.npy", VECTORS[:7])
    with pytest.raises(ValueError, match="is not an index"):
        open_index(tmp_path)


def _wanted(spec: Any) -> dict[str, Any]:
    from latentc.emit.project import searched

    return searched(spec)


@pytest.mark.parametrize("itself", [False, True])
def test_training_reads_the_neighbours_of_each_sample(itself: bool) -> None:
    spec = load_spec("digits_rdm", overrides=[f"conditioning.neighbours.itself={str(itself).lower()}"])
    source = open_dataset(spec.data.settings())
    data, rows = WithNeighbours(source, _wanted(spec), 10), np.array([3, 700])
    found = data.rows(rows)
    pixels = source.rows(np.arange(source.size))["x"].reshape(source.size, -1)
    cosines = pixels[rows] @ pixels.T / np.linalg.norm(pixels[rows], axis=1)[:, None] / np.linalg.norm(pixels, axis=1)
    if not itself:
        cosines[np.arange(2), rows] = -2
    assert np.array_equal(found["neighbours"], pixels[np.argsort(-cosines, axis=1)[:, :4]])
    assert data.indexes["neighbours"].queries is not None and set(found) == {"x", "y", "neighbours"}


def test_another_database_serves_in_training(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", RNG.standard_normal((20, 64)).astype(np.float32))
    override = f"conditioning.neighbours.database={json.dumps(str(tmp_path / 'vectors.npy'))}"
    spec = load_spec("digits_rdm", overrides=[override])
    rows = WithNeighbours(open_dataset(spec.data.settings()), _wanted(spec)).rows(np.arange(3))
    held = np.load(tmp_path / "vectors.npy")
    assert all((held == one).all(axis=1).any() for one in rows["neighbours"].reshape(-1, 64))
    np.save(tmp_path / "vectors.npy", VECTORS)
    with pytest.raises(ValueError, match="embeddings of 16 numbers, but the data has 64"):
        WithNeighbours(open_dataset(spec.data.settings()), _wanted(spec))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["conditioning.neighbours.field=y"], "data field `y` holds no embeddings"),
        (["conditioning.neighbours.field=null"], "no field is named"),
        (["conditioning.neighbours=null"], "a transformer attends to condition tokens"),
        (["backbone.block.transformer=null"], "condition `neighbours` enters as tokens"),
        (
            ["conditioning.neighbours.database=a.npy", "conditioning.neighbours.itself=true"],
            "`itself` applies only if",
        ),
    ],
)
def test_specs_that_do_not_fit(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("digits_rdm", overrides=overrides)
    assert any(message in d.message for d in error.value.diagnostics)


def test_a_network_of_zeros_may_be_guided_without_dropout() -> None:
    low = lower(load_spec("digits_rdm", overrides=["sampler={kind: ddim, steps: 2, guidance: {scale: 2.0}}"]))
    assert "scale" in low.programs[0].sources
    assert [d.name for d in low.updates[0].draws] == ["t", "noise"]  # nothing is dropped in training


TINY = ["backbone.width=16", "backbone.block.groups=4", "backbone.block.heads=2", "conditioning.time.frequencies=16"]
TINY += ["sampler.steps=2", "backbone.attention=[1]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.latentc with random weights, and tiny.index beside it."""
    from safetensors.numpy import save_file

    from latentc import api
    from latentc.checkpoint import network_types

    path = tmp_path_factory.mktemp("retrieval")
    types = network_types(lower(load_spec("digits_rdm", overrides=TINY)), "main")
    rng = np.random.default_rng(1)
    weights = {name: (0.2 * rng.standard_normal(shape)).astype(np.float32) for name, (shape, _) in types.items()}
    save_file(weights, path / "tiny.safetensors")
    api.compile("digits_rdm", path / "tiny.safetensors", path / "tiny.latentc", overrides=TINY)
    api.index("digits_rdm", path / "tiny.index", overrides=TINY)
    return path


def test_a_bundle_searches_the_index_beside_it(folder: Path) -> None:
    from latentc_runtime import load

    pipe = load(folder / "tiny.latentc")
    index = pipe.indexes["neighbours"]
    assert isinstance(index, Index) and index.size == 64
    by_class = pipe.sample([3, 8], seeds=7)
    found = index.neighbours(index.queries[[3, 8]], 4)
    assert np.array_equal(by_class, pipe.sample(conditions={"neighbours": found}, seeds=7))
    assert not np.allclose(by_class[0], pipe.sample([5], seeds=7)[0])
    assert pipe.sample(seeds=[1, 2]).shape == (2, 1, 8, 8)


def test_another_index_may_be_named(folder: Path, tmp_path: Path) -> None:
    from latentc_runtime import load

    write_index(with_labels(RNG.standard_normal((9, 64)).astype(np.float32)), tmp_path / "other")
    assert len(load(folder / "tiny.latentc", index=tmp_path / "other").indexes["neighbours"]) == 9
    write_index(with_labels(VECTORS), tmp_path / "small")
    for index, message in [
        (tmp_path / "small", "holds 300 embeddings of 16 numbers; `neighbours` is 4 of 64"),
        (tmp_path / "none", "is not an index"),
        ({"text": tmp_path / "other"}, "no condition `text` uses neighbours"),
    ]:
        with pytest.raises(BundleError) as error:
            load(folder / "tiny.latentc", index=index)
        assert error.value.code == "E0620" and message in error.value.message


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    run, bundle = CliRunner().invoke, str(folder / "tiny.latentc")
    np.savez(tmp_path / "query.npz", query=np.load(folder / "tiny.index" / "vectors.npy")[:3])
    for arguments, count in [
        (["--class", "0-9"], 10),
        (["--count", "3"], 3),
        (["--given", f"neighbours={tmp_path / 'query.npz'}"], 3),
        (["--class", "1,2", "--per-class", "2", "--as", "npz"], 4),
    ]:
        out = tmp_path / f"{count}.npz"
        target = ["-o", str(out)] if "--as" in arguments else ["--raw", str(out)]
        assert run(app, ["sample", bundle, *arguments, *target], catch_exceptions=False).exit_code == 0
        held = np.load(out)
        assert len(next(iter(held.values()))) == count
    made = run(app, ["index", "digits_rdm", "-o", str(tmp_path / "again")], catch_exceptions=False)
    assert "898 embeddings of 64 numbers, queries of 10 classes" in made.output
    np.savez(tmp_path / "query.npz", query=np.zeros((1, 5)))
    wrong = ["--given", f"neighbours={tmp_path / 'query.npz'}", "--as", "npz", "-o", str(tmp_path / "wrong.npz")]
    with pytest.raises(DiagnosticError, match="a query of `neighbours` has shape"):
        run(app, ["sample", bundle, *wrong], catch_exceptions=False)
    with pytest.raises(DiagnosticError, match="E0620"):
        run(app, ["index", "digits_dit", "-o", str(tmp_path / "no")], catch_exceptions=False)


BLOCK = "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
BLOCK += "condition: {kind: in_context}}"
ENCODED = [
    *TINY,
    "data.fields={picture: {shape: [1, 8, 8]}, caption: {shape: [6], classes: 28, medium: text, end: 1, "
    "alphabet: '_$abcdefghijklmnopqrstuvwxyz'}}",
    "networks.eye={kind: patch_encoder, reads: picture, width: 8, depth: 1, patch: 4, positions: {kind: learned}, "
    f"block: {BLOCK}, output: mean, head: {{features: 64}}, pretrained: eye.safetensors}}",
    "networks.words={kind: text_encoder, masked: false, width: 8, depth: 1, positions: {kind: learned}, "
    f"block: {BLOCK}, pooled: end, projection: 64, pretrained: words.safetensors}}",
    "conditioning.neighbours.queries=[eye, words]",
]

EYE = next(change for change in ENCODED if change.startswith("networks.eye="))
OTHER = [EYE.replace("eye=", "too="), "conditioning.other={kind: neighbours, field: x}"]


def test_two_conditions_with_the_same_query_share_a_program() -> None:
    changes = [*ENCODED, OTHER[1], "conditioning.other.queries=[eye]"]
    names = [program.name for program in lower(load_spec("digits_rdm", overrides=changes)).programs]
    assert names == ["sample", "query_picture", "query_caption"]


def test_a_text_or_an_image_is_encoded_in_the_engine_as_a_query(folder: Path, tmp_path: Path) -> None:
    from random_weights import random_weights
    from safetensors.numpy import save_file

    from latentc import api
    from latentc.checkpoint import network_params
    from latentc_runtime import load

    lowered = lower(load_spec("digits_rdm", overrides=ENCODED))
    assert [program.name for program in lowered.programs] == ["sample", "query_picture", "query_caption"]
    assert lowered.sampled == ("main", "eye", "words")
    files = []
    for name in ("eye", "words"):
        own = random_weights(network_params(lowered, lowered.networks[name]), np.random.default_rng(2), 0.5)
        save_file({n: np.float32(a) for n, a in own.items()}, tmp_path / f"{name}.safetensors")
        files.append(f"{name}={tmp_path / name}.safetensors")
    weights = [f"main={folder / 'tiny.safetensors'}", *files]
    api.compile("digits_rdm", weights, tmp_path / "tiny.latentc", overrides=ENCODED)
    pipe = load(tmp_path / "tiny.latentc", index=folder / "tiny.index")

    def sampled(value: Any, **more: Any) -> np.ndarray:
        return pipe.sample(conditions={"neighbours": value}, seeds=7, **more)

    def encoded(network: str, **given: Any) -> np.ndarray:
        made = api.run_method("digits_rdm", files, given, "oracle", overrides=ENCODED, network=network, method="encode")
        return next(iter(made.values()))

    pictures = RNG.standard_normal((2, 1, 8, 8)).astype(np.float32)
    tokens = np.array([[2, 3, 1, 1, 1, 1], [9, 1, 1, 1, 1, 1]])
    of_words, of_eye = encoded("words", tokens=tokens), encoded("eye", x=pictures)
    index = open_index(folder / "tiny.index")
    found = [index.search(queries, 4) for queries in (of_words, of_eye)]
    assert not any(np.array_equal(one[0], one[1]) for one in found)  # else the samples would not tell
    for value, query in [
        (["ab", "h"], of_words),
        ({"caption": "ab"}, of_words[0]),
        ("ab", of_words[0]),
        ({"caption": tokens}, of_words),
        (pictures, of_eye),
        (pictures[1], of_eye[1]),
        (pictures.tolist(), of_eye),
        ({"picture": pictures}, of_eye),
    ]:
        assert np.array_equal(sampled(value), sampled({"query": query})), value
    with pytest.raises(BundleError, match="`caption`"):
        sampled({"caption": "AB"})
    np.save(tmp_path / "pictures.npy", pictures)
    (tmp_path / "captions.txt").write_text("ab\nh\n")
    for file, query in (("pictures.npy", of_eye), ("captions.txt", of_words)):
        wanted = sampled({"query": query})
        arguments = ["sample", str(pipe.bundle.folder), "--index", str(folder / "tiny.index"), "--seed", "7"]
        arguments += ["--given", f"neighbours={tmp_path / file}"]
        for target in (["--raw", f"{file}.npz"], ["--as", "npz", "-o", f"set-{file}.npz"]):
            target[-1] = str(tmp_path / target[-1])
            assert CliRunner().invoke(app, [*arguments, *target], catch_exceptions=False).exit_code == 0
        with np.load(tmp_path / f"{file}.npz") as made:
            assert np.array_equal(next(iter(made.values())), wanted)
    without = load(tmp_path / "tiny.latentc")
    with pytest.raises(BundleError, match="there is no index to search"):
        without.sample(conditions={"neighbours": {"caption": "ab"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["conditioning.neighbours.queries=[main]"], "network `main` encodes nothing"),
        (["conditioning.neighbours.queries=[ear]"], "network `ear` does not exist"),
        (["networks.words.masked=true"], "network `words` reads more than one field"),
        (["networks.words.projection=63"], "network `words` returns [63] per sample, but an entry has 64"),
        (["networks.words.pretrained=null"], "network `words` encodes only queries"),
        (["conditioning.neighbours.queries=[eye, eye]"], "network `eye` is named twice"),
        ([*OTHER, "conditioning.other.queries=[too]"], "in a request `picture` would be ambiguous"),
    ],
)
def test_queries_that_do_not_fit(changes: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("digits_rdm", overrides=[*ENCODED, *changes])
    assert any(message in d.message for d in error.value.diagnostics), error.value


def test_a_training_project_searches_by_features() -> None:
    from latentc.emit import project_files

    spec = load_spec("digits_rdm", overrides=ENCODED)
    text = project_files(lower(spec, to_emit=True), spec)["sampler.py"]
    assert isinstance(text, str) and "retrieved=True" in text and "quer" not in text
