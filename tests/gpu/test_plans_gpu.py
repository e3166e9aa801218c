"""Plans on the GPU they are for, against ONNX Runtime on the CPU from the same graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from on_gpu import CLASSES, SEEDS, TOLERANCE, assert_near

import latentc_runtime
from latentc import api
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.backends.tensorrt import PACKAGES
from latentc_runtime.errors import BundleError


@pytest.fixture(params=list(PACKAGES))
def engine(request: pytest.FixtureRequest) -> list[str]:
    """The overrides that make a bundle with plans for this machine."""
    pytest.importorskip("polygraphy")
    trt = pytest.importorskip(PACKAGES[request.param])
    try:
        capability = Cuda().capability
    except BundleError as error:
        pytest.skip(str(error))
    if request.param == "tensorrt":
        return ["target.engine=tensorrt"]
    if not hasattr(trt.ComputeCapability, capability.upper()):
        pytest.skip(f"TensorRT-RTX does not know {capability}")
    return ["target.engine=tensorrt-rtx", f"target.capabilities=[{capability}]"]


CASES = [("ddim", "unroll"), ("ddim", "loop"), ("ddpm", "loop"), ("ddim", "host"), ("unipc", "host"), ("ddpm", "host")]


@pytest.mark.parametrize(("system", "form"), CASES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_plans_run(bundle: Callable[..., Path], engine: list[str], system: str, form: str, precision: str) -> None:
    profiles = "target.profiles=[{min: 1, opt: 2, max: 3}, {min: 4, opt: 6, max: 8}]"
    path = bundle(system, form, *engine, f"target.precision={precision}", profiles)
    pipe = latentc_runtime.load(path, device="tensorrt")
    cpu = latentc_runtime.load(path, device="cpu", engine="onnxruntime") if precision != "bf16" else None
    for count in (1, 2, 3, 4, 5, 8):  # both profiles, their ends and between
        classes, seeds = np.resize(CLASSES, count), np.arange(count)
        got = pipe.sample(classes, seeds)
        assert np.isfinite(got).all()
        if cpu is not None:
            assert_near(got, cpu.sample(classes, seeds), max(TOLERANCE[precision], 2e-3))  # products in TF32


def test_tokens(bundle: Callable[..., Path], engine: list[str]) -> None:
    path = bundle("tokens", "host", *engine, "target.precision=fp16")
    got = latentc_runtime.load(path, device="tensorrt").sample(CLASSES, SEEDS)
    again = latentc_runtime.load(path, device="tensorrt").sample(CLASSES[:1], SEEDS[:1])
    assert got.min() >= 0 and len(np.unique(got)) > 1
    assert np.mean(got[:1] == again) > 0.5


def test_steps_are_replayed(bundle: Callable[..., Path], engine: list[str]) -> None:
    """With the graphs off, the same samples to the bit."""
    path = bundle("unipc", "host", *engine, "sampler.steps=20", "target.precision=fp16")
    pipe = latentc_runtime.load(path, device="tensorrt")
    got = [pipe.sample(CLASSES, SEEDS) for _ in range(3)]
    engines = list(pipe._engines.values())
    plain = latentc_runtime.load(path, device="tensorrt")
    for one in plain._engines.values():
        one.no_graph = "for the test"  # type: ignore[attr-defined]
    want = plain.sample(CLASSES, SEEDS)
    assert all(np.array_equal(samples, want) for samples in got)
    if engine == ["target.engine=tensorrt"]:
        print({e.name: (e.no_graph, sum(g is not None for g in e.graphs.values())) for e in engines})  # type: ignore[attr-defined]
        assert any(graph is not None for e in engines for graph in e.graphs.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible", "strip_weights"])
def test_options_of_tensorrt(bundle: Callable[..., Path], engine: list[str], option: str) -> None:
    if engine != ["target.engine=tensorrt"]:
        pytest.skip("an option of TensorRT alone")
    path = bundle("ddim", "loop", *engine, f"target.{option}=true")
    pipe = latentc_runtime.load(path, device="tensorrt")
    want = latentc_runtime.load(path, device="cpu", engine="onnxruntime").sample(CLASSES, SEEDS)
    assert_near(pipe.sample(CLASSES, SEEDS), want, 2e-3)
    if option == "strip_weights":
        (plan,) = pipe.manifest.plans
        assert pipe.manifest.files[plan.plan].size < sum(
            entry.size for name, entry in pipe.manifest.files.items() if name.startswith("weights/")
        )


def test_verification_of_plans(bundle: Callable[..., Path], engine: list[str]) -> None:
    path = bundle("ddim", "loop", *engine, "target.precision=fp16", "target.profiles=[{min: 1, opt: 4, max: 8}]")
    report = api.verify(path, device="tensorrt")
    assert report.ok, report.text()
