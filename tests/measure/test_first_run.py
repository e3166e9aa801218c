"""`compile` runs what it has made, and says so if that is impossible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES, Engine
from latentc.export.forms import for_form
from latentc.export.fusion import graphs
from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node
from latentc.lower import lower
from latentc.measure import first_run
from latentc.passes.rewrite import rewrite
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors
from latentc_runtime import BundleError, load

DIT = ("backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=2", "sampler.steps=6")
SPECS = {
    "digits_dit": DIT,
    "digits_llamagen": ("backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=2"),
}


def compiled(folder: Path, name: str, *overrides: str, **options: Any) -> tuple[Path, list[str]]:
    """A compiled bundle of random weights and the warnings of `compile`."""
    spec = load_spec(name.split()[0], None, [*SPECS[name], *overrides])
    lowered, rng = lower(spec), np.random.default_rng(0)
    arrays = {
        path: Array((0.1 * rng.standard_normal([int(d) for d in param.type.shape])).astype(np.float32))  # type: ignore[arg-type]
        for path, param in network_params(lowered, lowered.networks["main"]).items()
        if param.kind in ("weight", "state")
    }
    weights = folder / "weights.safetensors"
    write_safetensors(weights, arrays)
    warnings: list[str] = []
    given = [*SPECS[name], *overrides]
    api.compile(name.split()[0], weights, folder / "b", overrides=given, warn=warnings.append, **options)
    return folder / "b", warnings


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(form, whether whole) of every run."""
    found: list[tuple[str, bool]] = []
    run = first_run._run

    def watched(folder: Path, manifest: Any, entry: Any, whole: bool, device: str) -> None:
        found.append((entry.form, whole))
        run(folder, manifest, entry, whole, device)

    monkeypatch.setattr(first_run, "_run", watched)
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", SPECS)
def test_long_loops_run_one_step(
    name: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[Any]
) -> None:
    monkeypatch.setattr(first_run, "WHOLE", 0)
    trips: list[int] = []
    shorten = first_run.one_step

    def watched(graph: Any) -> None:
        shorten(graph)
        held = {t.name: t for inner in graphs(graph) for t in inner.initializer}
        counts = [n.input[0] for inner in graphs(graph) for n in inner.node if n.op_type == "Loop"]
        trips.extend(int(numpy_helper.to_array(held[count])) for count in counts)

    monkeypatch.setattr(first_run, "one_step", watched)
    bundle, warnings = compiled(tmp_path, name, f"target={{engine: {engine}, form: loop}}")
    assert runs == [("loop", False)] and not warnings
    assert set(trips) == {1} and len(trips) > ("cached" in name)
    assert not list(bundle.glob(".one-step*"))
    assert np.isfinite(load(bundle).sample([1])).all()  # the bundle itself keeps its steps


@pytest.mark.parametrize("form", ["loop", "host", "unroll"])
def test_short_samplers_run_whole(form: str, tmp_path: Path, runs: list[Any]) -> None:
    compiled(tmp_path, "digits_dit", f"target.form={form}")
    assert runs == [(form, True)]


def group_norms(module: Module) -> Module:
    """The module with its layer norms [B, T, C] as group norms of T groups, which is the same."""

    def replaced(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "layer_norm" or len(operands) > 1 or node.inputs[0].type.rank != 3:
            return None
        return [b.group_norm(*operands, groups=node.inputs[0].type.shape[1], eps=node.attrs["eps"])]

    return rewrite(module, replaced)


def test_group_norms_sample_in_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forms(module: Module, form: str, engine: Engine) -> Module:
        return for_form(group_norms(module), form, engine)

    plain, _ = compiled(tmp_path, "digits_dit", "target={engine: openvino, form: loop}")
    want = load(plain).sample([1, 2])
    monkeypatch.setattr("latentc.export.bundle.for_form", forms)
    bundle, _ = compiled(tmp_path, "digits_dit", "target={engine: openvino, form: loop}", rebuild=True)
    assert np.allclose(load(bundle).sample([1, 2]), want, atol=1e-4)


def test_an_engine_that_fails_is_named_with_a_form_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forms(module: Module, form: str, engine: Engine) -> Module:
        return group_norms(module)  # what OpenVINO compiles inside a loop, and then cannot run

    monkeypatch.setattr("latentc.export.bundle.for_form", forms)
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, "digits_dit", "target={engine: openvino, form: loop}")
    (found,) = caught.value.diagnostics
    assert found.code == "E0512" and "OpenVINO" in found.message and "`loop`" in found.message
    assert "GroupNormalization" in found.notes[0] and "target.form: host" in (found.help or "")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_an_engine_that_is_not_here_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: Any, **options: Any) -> Any:
        raise BundleError("E0606", "OpenVINO is missing", "install it")

    monkeypatch.setattr(first_run, "load", missing)
    _, warnings = compiled(tmp_path, "digits_dit", "target.engine=openvino")
    assert warnings == ["the bundle was not run: OpenVINO does not run on this machine (OpenVINO is missing)"]


@pytest.mark.parametrize(("limit", "value"), [("LARGEST", 0), ("COPIES", 1 << 40)])
def test_what_is_too_large_to_run_is_said(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[Any]
) -> None:
    monkeypatch.setattr(first_run, limit, value)
    _, warnings = compiled(tmp_path, "digits_dit")
    assert not runs and len(warnings) == 1 and "not run" in warnings[0]


def test_every_engine_names_itself() -> None:
    assert all(name == engine.name for name, engine in ENGINES.items())


def test_no_run(tmp_path: Path, runs: list[Any]) -> None:
    compiled(tmp_path, "digits_dit", run=False)
    assert not runs
    compiled(tmp_path, "digits_dit")  # such a bundle is not up to date
    assert len(runs) == 1
