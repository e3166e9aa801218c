"""TensorRT-RTX plans of tiny systems, really built, without a GPU; what cannot be built is said and leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_bundle import stored_weights

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.export import plans
from latentc.export.bundle import bundle_from_lowered
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc_runtime.backends import open_backend
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import manifest_from_bytes

DIT = ("digits_dit", "backbone.width=64", "backbone.depth=2", "sampler.steps=6")
TOKENS = ("digits_llamagen", "backbone.depth=2")


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("polygraphy")


def compiled(tmp_path: Path, system: tuple[str, ...], *overrides: str, **options: Any) -> Any:
    given = ["target.engine=tensorrt-rtx", "target.capabilities=[sm89]", *system[1:], *overrides]
    spec = load_spec(system[0], None, given)
    lowered = lower(spec)
    weights = stored_weights(lowered, tmp_path)
    return bundle_from_lowered(
        optimised(lowered, spec),
        spec,
        {"main": weights},
        tmp_path / "bundle",
        spec_text=resolved_yaml(spec),
        form=options.pop("form", spec.target.form),
        max_batch=spec.target.max_batch,
        **options,
    )


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("form", ["loop", "unroll", "host"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_dit(tmp_path: Path, form: str, precision: str) -> None:
    overrides = (f"target.precision={precision}", "target.profiles=[{min: 1, opt: 2, max: 4}]")
    manifest = compiled(tmp_path, DIT if form == "loop" else (*DIT, "sampler.steps=2"), *overrides, form=form)
    files = {p.file for p in manifest.plans}
    assert files == {name for name in manifest.files if name.endswith(".onnx")}
    main = max(manifest.plans, key=lambda p: manifest.files[p.plan].size)
    assert main.capability == "sm89" and main.precision == precision and main.profiles == ((1, 2, 4),)
    assert main.plan in manifest.files and main.version.startswith("1.")
    assert manifest.samplers[0].max_batch == 4
    blocks = {"loop": 2, "unroll": 4, "host": 2}[form]
    # Kernels are counted, so a step with two branches may hold more of them than the network has blocks.
    assert main.fused_attentions >= blocks if precision != "fp32" else main.fused_attentions == 0
    assert manifest == manifest_from_bytes((tmp_path / "bundle" / "manifest.json").read_bytes())


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("form", ["loop", "host"])
def test_llamagen(tmp_path: Path, form: str) -> None:
    manifest = compiled(tmp_path, TOKENS, "target.precision=fp16", form=form)
    main = max(manifest.plans, key=lambda p: manifest.files[p.plan].size)
    assert main.fused_attentions >= 2
    assert main.profiles == ((1, 8, 64),)


@pytest.mark.usefixtures("rtx")
def test_a_plan_for_each_capability(tmp_path: Path) -> None:
    manifest = compiled(tmp_path, DIT, "target.capabilities=[sm80, sm89, sm120]", "target.precision=fp16")
    assert [p.plan for p in manifest.plans] == ["sample.sm80.plan", "sample.sm89.plan", "sample.sm120.plan"]
    # Without a GPU of these, the graphs still run.
    pipe = latentc_runtime.load(tmp_path / "bundle", device="cpu")
    assert pipe.sample([1, 2], seeds=3).shape == (2, 1, 8, 8)


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("overrides", "options", "code", "text"),
    [
        (("target.capabilities=[sm90]",), {}, "E0505", "not for sm90"),
        ((), {"by_reference": True}, "E0504", "hold their weights"),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, overrides: Any, options: Any, code: str, text: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, DIT, *overrides, **options)
    assert caught.value.diagnostics[0].code == code
    assert text in caught.value.diagnostics[0].message
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.usefixtures("rtx")
def test_a_refused_graph_gives_the_librarys_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention as an operator inside a loop, which TensorRT-RTX does not build."""
    monkeypatch.setattr("latentc.export.bundle.write_out_attention", lambda module, keep_loops: module)
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, DIT, "target.precision=fp16", form="loop")
    found = caught.value.diagnostics[0]
    assert found.code == "E0504" and found.notes
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.usefixtures("rtx")
def test_missing_fusion_is_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.export.bundle.looped_attentions", lambda module, entry: 99)
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, DIT, "target.precision=fp16", form="loop")
    assert caught.value.diagnostics[0].code == "E0506"
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_too_many_sorted_tokens_are_refused_before_the_build(tmp_path: Path) -> None:
    vocabulary = ("data.tokens={vocabulary: 5000, grid: [8, 8]}", "sampler.top_k=4000")
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, TOKENS, *vocabulary, form="host")
    assert "3840" in caught.value.diagnostics[0].message
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_dying_builder_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = {
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": ("E0504", "enough memory"),
        "import json; print(json.dumps({'error': 'missing', 'message': 'No module'}))": ("E0505", "tensorrt_rtx"),
    }
    start = subprocess.Popen
    for program, (code, text) in fakes.items():
        monkeypatch.setattr(
            plans.subprocess, "Popen", lambda command, _p=program, **kw: start([sys.executable, "-c", _p], **kw)
        )
        with pytest.raises(DiagnosticError) as caught:
            compiled(tmp_path, DIT, form="unroll")
        assert caught.value.diagnostics[0].code == code
        assert text in caught.value.diagnostics[0].message
        assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def slow(command: Any, **kw: Any) -> Any:
        started.append(start([sys.executable, "-c", "import time; time.sleep(60)"], **kw))
        return started[-1]

    monkeypatch.setattr(plans.subprocess, "Popen", slow)
    previous = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            compiled(tmp_path, DIT, form="unroll")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - begun < 20
    assert all(worker.poll() is not None for worker in started)
    assert [p.name for p in tmp_path.iterdir()] in (["w.safetensors"], [])


def test_options_that_do_not_hold_together() -> None:
    for override in (
        ["target.capabilities=[sm89]"],
        ["target.engine=tensorrt-rtx", "target.profiles=[{min: 4, opt: 2, max: 8}]"],
        ["target.engine=tensorrt-rtx", "target.hardware_compatible=true"],
    ):
        with pytest.raises(DiagnosticError) as caught:
            load_spec("dit", None, override)
        assert caught.value.diagnostics[0].code == "E0308"


def test_profiles_double_with_the_guided_batch() -> None:
    from onnx import TensorProto, helper

    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3]),
        helper.make_tensor_value_info("cache", TensorProto.FLOAT, ["2*B", 4]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, [5, "B"]),
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
    ]
    model = helper.make_model(helper.make_graph([], "g", given, []))
    assert plans.profile_shapes(model, (1, 2, 8)) == {
        "x": [[1, 3], [2, 3], [8, 3]],
        "cache": [[2, 4], [4, 4], [16, 4]],
        "u": [[5, 1], [5, 2], [5, 8]],
        "i": [[], [], []],
    }


@pytest.mark.usefixtures("rtx")
def test_without_a_gpu_the_runtime_says_so(tmp_path: Path) -> None:
    try:
        Cuda()
    except BundleError as error:
        assert error.code == "E0606"
    else:
        pytest.skip("there is a GPU")
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=())
    assert caught.value.code == "E0606"


@pytest.mark.gpu
@pytest.mark.usefixtures("rtx")
def test_plans_run(tmp_path: Path) -> None:
    """On a GPU that plans can be built for: the same samples as ONNX Runtime gives from the same graphs."""
    try:
        capability = Cuda().capability
    except BundleError as error:
        pytest.skip(error.message)
    manifest = compiled(tmp_path, DIT, f"target.capabilities=[{capability}]", "target.precision=fp16")
    assert manifest.plans
    want = latentc_runtime.load(tmp_path / "bundle", device="cpu").sample([1, 2, 3], seeds=0)
    got = latentc_runtime.load(tmp_path / "bundle", device="tensorrt").sample([1, 2, 3], seeds=0)
    assert abs(got - want).max() <= 2e-2 * abs(want).max()
