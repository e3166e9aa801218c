"""Programs of any number of rows: points and rays in chunks, grids, refusals, one call or two, every way to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from forked import python

import latentc_runtime
from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.subject import open_subject
from latentc.spec import load_spec
from latentc.verify.rows import backwards, forwards, request_of_rows
from latentc_runtime.chunks import Chunk, Grid, grid_points
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest_json import bytes_from_manifest, manifest_from_bytes
from latentc_runtime.request import check_request

SCANS = ("data.classes=3", "data.fields.x.shape=[1, 4, 4]", "networks.main.width=6", "networks.main.points=5")
SCANS = (*SCANS, "networks.main.omega=3", "sampler.resolution=3", "sampler.chunk=7")
BOXES = ("data.shape=[3, 4, 4]", *(f"networks.main.{size}" for size in ("width=6", "depth=2", "mapping_width=8")))
BOXES = (*BOXES, "networks.main.points=4", "networks.main.hierarchical=true", "sampler.chunk=6")
BOXES = (*BOXES, "networks.discriminator.widths=[4, 6]", "networks.encoder.widths=[4, 6]")
ANGLE = np.array([0.7], np.float32)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle of `phantoms_cond_cbnt`, whose chunks have 7 rows."""
    return latentc_runtime.load(tiny_bundle("phantoms_cond_cbnt", tmp_path_factory.mktemp("scans") / "b", SCANS), "cpu")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bundle of `boxes_pix2nerf`, whose chunks have 6 rows."""
    folder = tmp_path_factory.mktemp("boxes") / "b"
    return latentc_runtime.load(tiny_bundle("boxes_pix2nerf", folder, BOXES, std=0.2), "cpu")


def densities(pipe: Any, points: Any, **more: Any) -> np.ndarray:
    return np.asarray(pipe.sample(more.pop("classes", [1]), conditions={"points": points}, program="field", **more))


@pytest.mark.parametrize("count", [1, 6, 7, 8, 30])
def test_any_number_of_points_equals_one_chunk_after_the_other(scans: Any, count: int) -> None:
    points = RNG.uniform(-1, 1, (count, 3)).astype(np.float32)
    found = densities(scans, points)
    assert found.shape == (1, count, 1) and (count == 1 or np.ptp(found) > 0)
    each = [densities(scans, points[at : at + 7]) for at in range(0, count, 7)]
    assert np.array_equal(found, np.concatenate(each, axis=1))
    whole = Interpreter(
        lower(load_spec("phantoms_cond_cbnt", overrides=[*SCANS, f"sampler.chunk={count}"])).module,
        open_subject(scans.bundle.folder).arrays,
    ).run("field", points[None], np.array([1]))[0]
    assert np.abs(found - whole).max() < 1e-6


def test_a_point_has_the_same_value_wherever_it_is(scans: Any, boxes: Any) -> None:
    """In one call or in two that cut the points elsewhere, and in batches: to 1e-6."""
    points = RNG.uniform(-1, 1, (23, 3)).astype(np.float32)
    for pipe in (scans, boxes):
        whole = densities(pipe, points)
        halves = [densities(pipe, points[:9]), densities(pipe, points[9:])]
        assert np.abs(np.concatenate(halves, axis=1) - whole).max() < 1e-6
        assert np.array_equal(densities(pipe, points, batch=1), whole)
        assert np.abs(densities(pipe, points, batch=4) - whole).max() < 1e-6


def test_each_sample_may_have_its_own_points(scans: Any) -> None:
    points = RNG.uniform(-1, 1, (2, 10, 3)).astype(np.float32)
    both = densities(scans, points, classes=[2, 0])
    assert both.shape == (2, 10, 1)
    for i, patient in enumerate((2, 0)):
        assert np.array_equal(both[i], densities(scans, points[i], classes=[patient])[0])


def test_a_projection_at_twice_the_resolution_is_that_of_the_oracle(scans: Any) -> None:
    subject = open_subject(scans.bundle.folder)
    for side in (4, 8):
        low = lower(load_spec("phantoms_cond_cbnt", overrides=[*SCANS, f"data.fields.x.shape=[1, {side}, {side}]"]))
        (wanted,) = Interpreter(low.module, subject.arrays).run("sample.1", np.array([2]), ANGLE[None])
        given = {"pixels": side, "angle": ANGLE}
        found = scans.sample([2], conditions=given, program="render")
        assert found.shape == (1, 1, side, side) and np.abs(found - wanted).max() < 1e-5 < wanted.max()


def test_a_view_at_twice_the_resolution_is_that_of_the_oracle(boxes: Any) -> None:
    """Of the latent of a seed, from the camera of the request; the engine is as exact as at the spec's resolution."""
    subject, camera = open_subject(boxes.bundle.folder), np.array([1.3, 1.2], np.float32)
    weights = {path: array for path, array in subject.arrays.items() if path.startswith("main.")}
    for side, widths in ((4, "[4, 6]"), (8, "[4, 6, 6]")):
        sizes = (f"data.shape=[3, {side}, {side}]", f"networks.discriminator.widths={widths}")
        overrides = [*BOXES, *sizes, f"networks.encoder.widths={widths}"]
        low = lower(load_spec("boxes_pix2nerf", overrides=overrides))
        drawn = boxes.noise(7, 1)["z"]
        names = [value.name for value in low.module.entry("sample.1").inputs]
        operands = {"z": drawn, "y": np.array([2]), "camera": camera[None]}
        (wanted,) = Interpreter(low.module, weights).run("sample.1", *(operands[name] for name in names))
        request = check_request(boxes.manifest, boxes.program("render"), [2], 7, {"pixels": side, "camera": camera})
        exact = subject.run_request(request, "oracle")["colours"]
        assert exact.shape == (1, 3, side, side) and wanted.std() > 0.01
        assert np.abs(exact - wanted).max() < 2e-5  # the rays of `sample` are rounded to float32
        assert np.abs(boxes.run(request)["colours"] - wanted).max() < 1e-3
        assert np.abs(subject.run_request(request, "torch")["colours"] - wanted).max() < 1e-3


def test_an_image_is_seen_at_any_resolution(boxes: Any) -> None:
    image = RNG.uniform(-1, 1, (3, 4, 4)).astype(np.float32)
    given = {"image": image, "camera": np.array([1.3, 1.2], np.float32)}
    view = boxes.sample([2], conditions=given, program="novel_view")
    found = boxes.sample([2], conditions={**given, "pixels": 4}, program="render_image")
    assert np.abs(found - view).max() < 1e-3 and view.std() > 1e-3
    assert boxes.sample([2], conditions={**given, "pixels": [5, 9]}, program="render_image").shape == (1, 3, 5, 9)


def test_colours_and_densities_of_a_field_come_together(boxes: Any) -> None:
    points, ahead = RNG.uniform(-0.3, 0.3, (8, 3)), np.array([[0.0, 0.0, -1.0]] * 8)
    entry = boxes.program("field")
    usual, given, other = (
        boxes.run(check_request(boxes.manifest, entry, [0], 3, {"points": points, **more}))
        for more in ({}, {"directions": ahead}, {"directions": -ahead})
    )
    assert usual["colours"].shape == (1, 8, 3) and usual["density"].shape == (1, 8, 1)
    assert np.array_equal(usual["colours"], given["colours"]) and np.array_equal(usual["density"], other["density"])
    assert np.abs(usual["colours"] - other["colours"]).max() > 1e-6


def test_a_grid_has_its_points_at_the_ends_or_in_the_middles_of_cells(scans: Any) -> None:
    ends = grid_points(Chunk(7, ("pixels",), Grid(("height", "width"))), (2, 3))
    assert ends.tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]] and ends.dtype == np.float32
    assert grid_points(Chunk(7, ("p",), Grid(("x",), 4.0, True)), (4,)).ravel().tolist() == [-1.5, -0.5, 0.5, 1.5]
    volume = scans.sample([1], program="volume")
    assert np.abs(densities(scans, 3) - volume).max() < 1e-6  # both are [1, 1, 3, 3, 3]


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        (
            "field",
            {"points": np.zeros((5, 3)), "directions": np.zeros((4, 3))},
            "`points` has 5 and `directions` has 4",
        ),
        ("field", {"points": np.zeros((5, 2))}, "`points` has shape [5, 2]"),
        ("field", {"points": np.zeros(3)}, "`points` has shape [3]"),
        ("field", {"points": np.zeros((0, 3))}, "`points` has no rows"),
        ("field", {"points": np.full((2, 3), np.nan)}, "not finite"),
        ("field", {"directions": np.zeros((4, 3))}, "the condition `points` is missing"),
        ("field", {"points": 0}, "a grid of 0 x 0 x 0 points"),
        ("field", {"points": "few"}, "takes numbers, not the text 'few'"),
        ("field", {"points": 100_000}, "rows of a sample in one request; at most 100663296"),
        ("render", {"pixels": "8x8x8"}, "a grid of 8 x 8 x 8 points"),
        ("sample", {"pixels": 8}, "no condition `pixels`"),
    ],
)
def test_rows_that_do_not_fit_are_refused(boxes: Any, program: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError) as caught:
        boxes.sample([1], conditions=given, program=program)
    assert caught.value.code == "E0608" and said in caught.value.message


def test_a_request_may_ask_for_so_many_chunks(scans: Any) -> None:
    entry = scans.program("field")
    assert len(check_request(scans.manifest, entry, [1], 0, {"points": np.zeros((21, 3))}, most=3)) == 1
    for classes, rows in (([1], 22), ([1, 1], 14)):
        with pytest.raises(BundleError, match="at most"):
            check_request(scans.manifest, entry, classes, 0, {"points": np.zeros((rows, 3))}, most=3)


def test_a_manifest_keeps_chunks_and_refuses_contradictions(boxes: Any) -> None:
    manifest = boxes.manifest
    assert manifest_from_bytes(bytes_from_manifest(manifest)) == manifest
    by_name = {entry.name: entry for entry in manifest.programs}
    assert by_name["field"].chunk == Chunk(6, ("points", "directions"), Grid(("x", "y", "z"), 2.0, True))
    assert by_name["sample"].chunk is None and "any number P of rows" in manifest.takes(manifest.conditions[-1])
    for wrong, said in (
        (Chunk(5, ("points", "directions")), "chunk.size"),
        (Chunk(6, ("points", "class")), "chunk.size"),
        (Chunk(6, ("points", "pixels")), "chunk.conditions"),
        (Chunk(6, ("points",), Grid(("x", "y"))), "chunk.grid.axes"),
        (Chunk(6, ("points",), Grid(("x", "y", "z"), 0.0)), "chunk.grid.extent"),
    ):
        programs = tuple(replaced(entry, wrong) if entry.name == "field" else entry for entry in manifest.programs)
        with pytest.raises(BundleError, match=said):
            bytes_from_manifest(manifest.__class__(**{**vars(manifest), "programs": programs}))


def replaced(entry: Any, chunk: Chunk) -> Any:
    return entry.__class__(**{**vars(entry), "chunk": chunk})


def test_verification_sees_a_row_that_depends_on_its_chunk(scans: Any) -> None:
    """The check of `verify` compares the same rows in other chunks: it fails if a row depends on its neighbours."""
    entry = scans.program("field")
    request = request_of_rows(scans.manifest, entry, 2, 0)
    assert request.rows == 11 and len(request.in_chunks()) == 4
    turned = backwards(request).in_chunks()
    points = turned.given.conditions["points"]

    def error(of: Any) -> float:
        straight = request.from_chunks({"density": of(request.in_chunks().given.conditions["points"])})["density"]
        return float(np.abs(forwards(request, [of(points)])[0] - straight).max())

    assert error(lambda x: x.sum(-1, keepdims=True)) == 0
    assert error(lambda x: (x - x.mean(1, keepdims=True)).sum(-1, keepdims=True)) > 0.01
    report = api.verify(scans.bundle.folder, 60.0)
    assert report.ok and {c.what for c in report.comparisons} >= {"program field: 11 rows", "program render: 11 rows"}


def test_the_command_renders_at_a_size(scans: Any, boxes: Any, tmp_path: Path) -> None:
    folder = scans.bundle.folder
    raw, file = tmp_path / "raw.npz", tmp_path / "view.png"
    made = api.sample(folder, [1], given={"angle": ANGLE}, program="render", size="6x9", raw=raw)
    assert made.shape == (1, 1, 6, 9) and np.array_equal(np.load(raw)["integrals"], made)
    np.savez(tmp_path / "points.npz", value=np.zeros((9, 3)))
    assert api.sample(folder, [1], given={"points": tmp_path / "points.npz"}, program="field").shape == (1, 9, 1)
    api.sample(boxes.bundle.folder, [1], program="render", size=10, output=file)
    from PIL import Image

    assert Image.open(file).size == (10, 10)
    oracle = api.sample(folder, [1], given={"angle": ANGLE}, program="render", size="6x9", backend="oracle")
    assert np.abs(oracle - made).max() < 1e-5
    for options, said in (
        ({"size": 8}, "samples of `sample` have one size"),
        ({"size": 8, "program": "render", "given": {"angle": ANGLE, "pixels": 4}}, "both `size` and `pixels`"),
    ):
        with pytest.raises(DiagnosticError, match=said):
            api.sample(folder, [1], **options)
    with pytest.raises(DiagnosticError, match="have any number of rows"):
        api.sample_set(folder, tmp_path / "set", classes=[1], given={"angle": ANGLE, "pixels": 4}, program="render")


def test_an_emitted_project_renders_at_a_size(scans: Any, tmp_path: Path) -> None:
    from latentc.emit import project_from_lowered
    from latentc.weights import Array, write_safetensors

    spec = load_spec("phantoms_cond_cbnt", overrides=list(SCANS))
    project_from_lowered(lower(spec), spec, tmp_path / "project")
    weights = open_subject(scans.bundle.folder).arrays
    write_safetensors(tmp_path / "w.safetensors", {path: Array(array) for path, array in weights.items()})
    np.save(tmp_path / "points.npy", points := RNG.uniform(-1, 1, (17, 3)).astype(np.float32))
    np.save(tmp_path / "angle.npy", ANGLE)
    common = ("sample.py", "--weights", "../w.safetensors", "--class", "1", "--per-class", "1", "--raw", "x.npz")
    for name, asked, wanted in (
        ("density", ("--program", "field", "--given", "points=../points.npy"), densities(scans, points)),
        (
            "integrals",
            ("--program", "render", "--given", "pixels=5x6", "--given", "angle=../angle.npy"),
            scans.sample([1], conditions={"pixels": (5, 6), "angle": ANGLE}, program="render"),
        ),
    ):
        done = python(tmp_path / "project", *common, *asked)
        assert done.returncode == 0, done.stderr
        found = np.load(tmp_path / "project" / "x.npz")[name]
        assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-5
