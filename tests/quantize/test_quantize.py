"""A quantised spec compiled: layers left alone until the budget holds, refused or forced, reported, and verified."""

from __future__ import annotations

import csv
import json
import re
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised import QUICK, SHRUNK, Small, small
from tiny_systems import SYSTEMS

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.export.lowerings import TABLE
from latentc.export.lowerings.table import Context, Lowering
from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.measure.metrics import BEST, psnr, sqnr
from latentc.quantize import precision
from latentc.quantize.calibrate import calibrate
from latentc.quantize.judge import speedup
from latentc.quantize.plan import choice
from latentc.spec import load_spec
from latentc.verify.report import ENGINE, ORACLE, TORCH
from latentc.weights import Array, write_safetensors
from latentc_runtime import load


def chosen_of(made: Small):
    seen = calibrate(made.model)
    return choice(made.model, seen)


def compiled(made: Small, folder: Path, *overrides: str, **options: Any):
    return api.compile(
        made.name, made.file(folder), folder / "bundle", None, [*made.overrides, *overrides], max_batch=4, **options
    )


LENIENT = ("optimize.quantize.min_speedup=0", "optimize.quantize.budget={psnr: 0.1, perplexity: 1000}")
"""For tests of anything but the gate: speed and error of an engine depend on the CPU."""


@pytest.fixture
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification in two sizes of batch, for each of which OpenVINO compiles."""
    monkeypatch.setattr("latentc.verify.run.SIZES", (1, 4))


# ---- the choice


SCHEMES = ("int8", "int8_dynamic", "int8_weights")
# Each by one of the schemes in turn, and the digits by all.
QUANTISED = [(name, SCHEMES[i % 3]) for i, name in enumerate(SHRUNK) if name != "digits_dit"]
QUANTISED += [("digits_dit", scheme) for scheme in SCHEMES]


@pytest.mark.parametrize(("name", "scheme"), QUANTISED)
def test_shipped_specs_quantise_within_the_budget(name: str, scheme: str) -> None:
    made = small(name, f"{{scheme: {scheme}}}")
    found = chosen_of(made)
    assert found.quality.within(made.spec.optimize.quantize.budget), found.quality.text()  # type: ignore[union-attr]
    layers = set(found.layers)
    assert set(found.quantization.plan) | set(found.kept) == layers, "each is quantised, or there is a reason"
    assert len(found.quantization.plan) >= len(layers) // 2
    for path, loss in found.losses.items():
        assert 20 < loss.weight <= BEST and 10 < loss.output <= BEST, path
    errors = [s.error for s in found.sensitivity.values()]
    assert errors == sorted(errors, reverse=True) and not any(s.estimated for s in found.sensitivity.values())


def test_the_most_sensitive_layers_are_left_alone_until_the_budget_holds() -> None:
    loose = chosen_of(small("digits_dit"))
    wanted = loose.everything.psnr + 3.0  # type: ignore[operator]
    tight = chosen_of(small("digits_dit", f"{{scheme: int8, budget: {{psnr: {wanted}}}}}"))
    assert loose.everything == tight.everything
    sensitive = [path for path, why in tight.kept.items() if why.startswith("so sensitive")]
    left = {tight.layers[path].group for path in sensitive}
    assert left and tight.quantization.plan
    assert left == set(list(tight.sensitivity)[: len(left)]), "the first of the list, and no others"
    assert tight.quality.psnr is not None and tight.quality.psnr >= wanted


def test_time_that_does_not_reach_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("digits_dit")
    seen = calibrate(made.model)
    found = choice(made.model, seen, seconds=0.0)
    estimated = [unit for unit, s in found.sensitivity.items() if s.estimated]
    assert len(estimated) == len(found.sensitivity) - 1
    assert all(s.error > 0 for s in found.sensitivity.values())


@pytest.mark.usefixtures("few_batches")
def test_weights_use_seven_bits_where_products_saturate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("latentc.quantize.plan.saturates", lambda engine: True)
    compiled(small("digits_dit"), tmp_path, *LENIENT, "target.engine=openvino")
    layers = json.loads((tmp_path / "bundle/quantization/plan.json").read_text())["layers"]
    assert layers and all(how["narrow"] for how in layers.values())
    report = api.verify(tmp_path / "bundle")
    assert report.ok, report.text()


def test_saturation_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an engine whose sums are cut off at half of what they are; and there is nothing to find in exact ones."""
    from latentc.quantize import saturation

    class Engine:
        def __init__(self, share: float) -> None:
            self.share = share

        def engine(self, *files: object) -> Engine:
            return self

        def run(self, feed: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
            return {outputs[0]: feed["x"] * feed["x"].shape[-1] * self.share}

        def value(self, value: np.ndarray) -> np.ndarray:
            return value

        def array(self, value: np.ndarray) -> np.ndarray:
            return value

    for share, found in ((1.0, False), (0.5, True)):
        saturation.saturates.cache_clear()
        monkeypatch.setattr(saturation, "open_backend", lambda *args, share=share: Engine(share))
        assert saturation.saturates("onnxruntime") is found
    saturation.saturates.cache_clear()
    assert not saturation.saturates("tensorrt"), "not an engine of CPUs"


def test_nothing_left_to_quantise() -> None:
    with pytest.raises(DiagnosticError) as error:
        chosen_of(small("digits_dit", "{scheme: int8, exclude: ['*']}"))
    assert error.value.diagnostics[0].code == "E0805"


def test_a_network_of_which_only_the_gradient_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHRUNK, "adm_g", SYSTEMS["adm_g"].sizes)
    with pytest.raises(
        DiagnosticError, match=r"(?s)no calls of network `classifier`.*exclude: \['classifier\.\*'\]"
    ) as said:
        chosen_of(small("adm_g"))
    assert said.value.diagnostics[0].code == "E0801"


@pytest.mark.parametrize("name", ["dimr", "diffit_image", "d_jepa_t2i"])
def test_layers_without_a_scale_that_need_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only training calls (the output of DiMR's coarse branch, D-JEPA's predictor), and rows of zeros."""
    monkeypatch.setitem(SHRUNK, name, SYSTEMS[name].sizes)
    made = small(name)
    assert not [path for path in made.model.layers if "outputs.0" in path or "predictor" in path]
    calibrate(made.model)


def test_figures_of_quality() -> None:
    exact = np.linspace(-1, 1, 1000)
    assert psnr(exact, exact) == BEST == sqnr(exact, exact)
    assert psnr(exact + 0.02, exact, 2.0) == pytest.approx(40.0)
    assert sqnr(exact * 1.01, exact) == pytest.approx(40.0)
    assert psnr(np.full(1000, np.nan), exact) == -BEST


# ---- the bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    compiled(small("digits_dit", "{scheme: int8, smooth: 0.5, exclude: ['final_layer.*']}"), folder, *LENIENT)
    return folder / "bundle"


def test_the_manifest_keeps_the_figures(bundle: Path) -> None:
    pipe = load(bundle)
    made = pipe.manifest.quantization
    assert made is not None
    assert (made.scheme, made.of, made.forced) == ("int8", 15, False)
    assert made.psnr is not None and made.psnr > 30
    assert made.judged == "onnxruntime on cpu"
    assert made.speedup is not None and made.speedup > 0 and made.batch == 4
    assert {made.plan, "quantization/calibration.npz", "quantization/report.html"} <= set(pipe.manifest.files)
    plan = json.loads((bundle / made.plan).read_text())["layers"]
    assert made.layers == len(plan) > 7, "products of the blocks at least"
    assert not any("final_layer" in path for path in plan) and all(how["scheme"] == "int8" for how in plan.values())
    assert np.isfinite(pipe.sample([1, 2], seeds=3)).all()


def test_the_report_has_every_layer(bundle: Path) -> None:
    with (bundle / "quantization/report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    by_path = {row["path"]: row for row in rows}
    kept = by_path["main.final_layer.linear"]
    assert (kept["quantised"], kept["scheme"], kept["why"]) == ("False", "", "excluded by the spec")
    row = by_path["main.blocks.0.mlp.fc2"]
    assert row["shape"] == "32 × 128" and row["op"] == "linear" and row["unit"] == "main.blocks.0.mlp.fc2"
    assert float(row["scale"]) == pytest.approx(float(row["reach"]) / 127)
    assert 0 < float(row["reach"]) <= float(row["range"]) and 0 <= float(row["saturated"]) < 0.01
    assert float(row["weight_sqnr"]) > 25 and float(row["output_sqnr"]) > 20 and 0 < float(row["error"]) < 0.5
    page = (bundle / "quantization/report.html").read_text(encoding="utf-8")
    assert all(path in page for path in by_path)
    assert page.count('<div class="bar') == len({row["unit"] for row in rows if row["error"]}), "one per unit"
    assert page.count("<th>t=") == 3 and page.count('style="background: hsl') == 3 * 15, "inputs over the calls"
    assert not re.search(r"<script|src=|<link|@import|url\(http", page), "it loads nothing"
    assert "PSNR" in page and "excluded by the spec" in page


@pytest.mark.usefixtures("few_batches")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_verification_rounds_as_the_engine_does(tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine)
    compiled(small("digits_dit"), tmp_path, *LENIENT, f"target.engine={engine}")
    report = api.verify(tmp_path / "bundle")
    assert report.ok, report.text()
    errors = {(c.reference, c.candidate): c.error for c in report.comparisons if c.what == "forward"}
    assert errors[ORACLE, ENGINE] < 0.05 and errors[TORCH, ENGINE] > 1e-4
    assert all(control.ok for control in report.controls)


def test_a_wrong_engine_of_a_quantised_bundle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def wrong(c: Context) -> None:
        c.final("Neg", [c.ins[0]])

    compiled(small("digits_dit"), tmp_path, *LENIENT)
    monkeypatch.setitem(TABLE, "gelu", Lowering(wrong, TABLE["gelu"].opset))
    report = api.verify(tmp_path / "bundle")
    assert not report.ok
    assert [(d.candidate, d.path) for d in report.divergences] == [(ENGINE, "blocks.0.mlp")], report.text()


@pytest.mark.usefixtures("few_batches")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_quantised_tokens(engine: str, tmp_path: Path) -> None:
    """For OpenVINO the forward pass, which is calibrated, cuts queries, keys and values apart; decoding does not."""
    compiled(small("digits_llamagen"), tmp_path, *LENIENT, f"target.engine={engine}")
    made = load(tmp_path / "bundle").manifest.quantization
    assert made is not None and made.psnr is None
    assert made.perplexity is not None and abs(made.perplexity) < 0.01
    assert made.agreement is not None and made.agreement > 0.8
    report = api.verify(tmp_path / "bundle")
    assert report.ok, report.text()


# ---- refused


def refused(made: Small, folder: Path, *overrides: str, **options: Any) -> DiagnosticError:
    with pytest.raises(DiagnosticError) as error:
        compiled(made, folder, *overrides, **options)
    assert not (folder / "bundle").exists() and not list(folder.glob(".*")), "nothing is left behind"
    return error.value


def test_worse_than_the_budget_is_refused(tmp_path: Path) -> None:
    made = small("digits_dit", "{scheme: int8, budget: {psnr: 190}}")
    (found,) = refused(made, tmp_path).diagnostics
    assert found.code == "E0804" and "worse than its budget" in found.message
    assert "at least 190 dB" in found.notes[0] and "--force" in (found.help or "")
    assert "the most sensitive layers are main." in found.notes[1]


def test_samples_far_outside_the_data_are_said_to_be(tmp_path: Path) -> None:
    """An untrained MAR without clipping: its samples reach 60,000, and PSNR relative to data of range 2 is negative."""
    mar = SYSTEMS["mar"]
    quantize = f"optimize.quantize={{scheme: int8, min_speedup: 0.01, {QUICK}}}"
    lowered = lower(load_spec(mar.spec, None, list(mar.sizes)))
    files, rng = [], np.random.default_rng(0)
    for name, network in lowered.networks.items():
        arrays = {
            path: INITS[p.init.kind](rng, (shape := tuple(map(int, p.type.shape))), **p.init.args)
            + 0.05 * rng.standard_normal(shape)
            for path, p in network_params(lowered, network).items()
            if p.kind == "weight"
        }
        file = tmp_path / f"{name}.safetensors"
        write_safetensors(file, {path: Array(array.astype(np.float32)) for path, array in arrays.items()})
        files.append(f"{name}={file}")
    with pytest.raises(DiagnosticError, match=r"reach \S+, but data has a range of 2: are the weights trained\?"):
        api.compile(mar.spec, files, tmp_path / "bundle", overrides=[*mar.sizes, quantize])


def test_metrics_of_evaluate_are_a_budget(tmp_path: Path) -> None:
    """Against the unquantised engine on the same noise; what cannot be met is refused with both figures."""
    pytest.importorskip("sklearn")
    kept = "{scheme: int8, min_speedup: 0.01, budget: {psnr: 5, samples: 40, metrics: {fd: 1.5x, accuracy: 0}}}"
    section = compiled(small("digits_dit", kept), tmp_path).quantization
    assert (
        section is not None and set(section.metrics) == {"fd_digits", "accuracy"} and section.metrics["fd_digits"] > 1
    )
    assert load(tmp_path / "bundle").manifest.quantization == section
    assert "fd_digits" in (tmp_path / "bundle/quantization/report.html").read_text(encoding="utf-8")
    (tmp_path / "other").mkdir()
    never = kept.replace("1.5x", "0.1x")
    (found,) = refused(small("digits_dit", never), tmp_path / "other").diagnostics
    assert found.code == "E0804" and "worse than its budget" in found.message
    assert "unquantised" in found.notes[0] and "at most" in found.notes[0]
    (found,) = refused(small("digits_dit", kept.replace("fd:", "fdi:")), tmp_path / "other").diagnostics
    assert found.code == "E0714" and "did you mean `fd`" in (found.help or "")


def test_not_fast_enough_is_refused(tmp_path: Path) -> None:
    (found,) = refused(small("digits_dit"), tmp_path, "optimize.quantize.min_speedup=1000").diagnostics
    assert found.code == "E0804" and "not fast enough" in found.message
    assert "× as fast as unquantised at batch 4 (at least 1000 ×)" in found.notes[0]


def test_force_keeps_it_and_says_so(tmp_path: Path) -> None:
    warnings: list[str] = []
    made = small("digits_dit", "{scheme: int8, budget: {psnr: 190}, min_speedup: 1000}")
    manifest = compiled(made, tmp_path, force=True, warn=warnings.append)
    assert manifest.quantization is not None and manifest.quantization.forced
    assert load(tmp_path / "bundle").manifest.quantization == manifest.quantization
    assert len(warnings) == 1 and "worse than its budget allows and not fast enough" in warnings[0]


def test_an_engine_that_is_not_here_is_judged_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentc.quantize import judge
    from latentc_runtime import BundleError

    def absent(*args: object, **options: object) -> None:
        raise BundleError("E0606", "no such GPU")

    monkeypatch.setattr(judge, "load", absent)
    warnings: list[str] = []
    made = compiled(small("digits_dit"), tmp_path, warn=warnings.append).quantization
    assert made is not None and made.speedup is None and made.judged == "ONNX Runtime on the CPU"
    assert warnings == list(made.notes) and "speed was not measured" in warnings[0]


def test_the_speedup_is_the_median_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a clock of its own: two pipelines of which the second takes three times as long, one run far longer."""
    now = 0.0

    class Timed:
        def __init__(self, *seconds: float) -> None:
            self.seconds = cycle(seconds)

        def usual_request(self, count: int) -> int:
            return count

        def run(self, request: int) -> None:
            nonlocal now
            now += next(self.seconds)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    fast: Any = Timed(1.0)
    slow: Any = Timed(3.0, 3.0, 3.0, 50.0)
    assert speedup([fast, slow], 1) == pytest.approx(3.0)
    assert speedup([fast, Timed(1.0)], 1) == pytest.approx(1.0)  # type: ignore[list-item]


# ---- a calibration that is there


def test_compile_with_a_calibration(tmp_path: Path) -> None:
    made = small("digits_dit")
    weights, file = made.file(tmp_path), tmp_path / "calibration.npz"
    api.calibrate(made.name, weights, file, None, made.overrides)
    told: list[str] = []
    first = compiled(made, tmp_path, *LENIENT, calibration=file, progress=told.append)
    assert "reading the calibration" in told and not any("trajectories" in stage for stage in told)
    kept = tmp_path / "bundle/quantization/calibration.npz"
    again = compiled(made, tmp_path, *LENIENT, calibration=kept, rebuild=True)
    assert first.quantization is not None and again.quantization is not None
    assert first.quantization.psnr == again.quantization.psnr, "the bundle's own calibration serves again"
    other = small("digits_dit", more=("sampler.steps=4",))
    with pytest.raises(DiagnosticError) as error:
        compiled(other, tmp_path, *LENIENT, calibration=file)
    assert error.value.diagnostics[0].code == "E0803"


def test_a_calibration_for_a_spec_that_is_not_quantised(tmp_path: Path) -> None:
    made = small("digits_dit")
    weights = made.file(tmp_path)
    for call in (
        lambda: api.compile(made.name, weights, tmp_path / "b", None, made.overrides[:4], calibration=tmp_path / "c"),
        lambda: api.calibrate(made.name, weights, tmp_path / "c", None, made.overrides[:4]),
    ):
        with pytest.raises(DiagnosticError) as error:
            call()
        assert error.value.diagnostics[0].code == "E0708"


# ---- half precision


def test_overflow_is_found_before_the_build(tmp_path: Path) -> None:
    made = small("digits_dit")
    arrays = {path.removeprefix("main."): array for path, array in made.arrays.items()}
    large = {path: Array(array * (3e5 if path == "blocks.1.mlp.fc1.weight" else 1)) for path, array in arrays.items()}
    write_safetensors(tmp_path / "large.safetensors", large)
    line = [*made.overrides[:4], "target.precision=fp16"]
    with pytest.raises(DiagnosticError, match=r"blocks\.1\.mlp\.\w+, the result of linear in f16") as error:
        api.compile(made.name, tmp_path / "large.safetensors", tmp_path / "bundle", None, line)
    assert error.value.diagnostics[0].code == "E0806"
    assert not (tmp_path / "bundle").exists()
    told: list[str] = []
    api.compile(made.name, made.file(tmp_path), tmp_path / "bundle", None, line, progress=told.append)
    assert "checking ranges" in told


def test_a_large_network_is_not_looked_at_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LARGEST", 1.0)
    made, warnings = small("digits_dit"), list[str]()
    line = [*made.overrides[:4], "target.precision=fp16"]
    api.compile(made.name, made.file(tmp_path), tmp_path / "bundle", None, line, warn=warnings.append)
    assert len(warnings) == 1 and "whether values fit fp16 was not checked" in warnings[0]
