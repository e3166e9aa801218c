"""ONNX Runtime's CUDA and TensorRT providers against the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from on_gpu import CLASSES, SEEDS, SYSTEMS, TOLERANCE, assert_near, provider_fault

import latentc_runtime
from latentc import api
from latentc_runtime.backends import Backend

FORMS = [(s, f) for s in SYSTEMS for f in ("unroll", "loop", "host") if (s, f) != ("tokens", "unroll")]


@pytest.mark.parametrize(("system", "form"), FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_gpu_gives_what_the_cpu_gives(
    bundle: Callable[..., Path], cuda_provider: str, system: str, form: str, precision: str
) -> None:
    if (system, precision) == ("tokens", "fp16"):
        pytest.skip("a token once drawn otherwise changes all behind it")
    path = bundle(system, form, f"target.precision={precision}")
    want = latentc_runtime.load(path, device="cpu").sample(CLASSES, SEEDS)
    pipe = latentc_runtime.load(path, device=cuda_provider)
    assert pipe.device == cuda_provider
    assert_near(pipe.sample(CLASSES, SEEDS), want, TOLERANCE[precision])
    # A sample does not depend on what is beside it.
    assert_near(pipe.sample(CLASSES[:1], SEEDS[:1]), want[:1], TOLERANCE[precision])


def test_values_stay_on_the_device(bundle: Callable[..., Path], cuda_provider: str) -> None:
    pipe = latentc_runtime.load(bundle("ddim", "host"), device=cuda_provider)
    backend: Backend = pipe.backend
    downloads, places = [], set()
    array = backend.array

    def counted(value: object) -> object:
        downloads.append(value)
        places.add(value.device_name())  # type: ignore[attr-defined]
        return array(value)

    backend.array = counted  # type: ignore[method-assign, assignment]
    pipe.sample(CLASSES, SEEDS)
    assert len(downloads) == 1 and places == {"cuda"}


def test_verification_on_the_gpu(bundle: Callable[..., Path], cuda_provider: str) -> None:
    report = api.verify(bundle("ddim", "loop"), device=cuda_provider)
    assert report.ok, report.text()


def test_time_outside_the_engine(bundle: Callable[..., Path], cuda_provider: str) -> None:
    """A step of DiT-S/2 at batch 8, driven by the host: the host's part is small."""
    path = bundle("dit", "host", "target.precision=fp16", "sampler={kind: ddim, steps: 20}", variant="S/2")
    (case,) = api.bench(path, batches=[8], device=cuda_provider).cases
    print(f"\nDiT-S/2 fp16, batch 8, 20 steps: {case.samples_per_second:.1f} images/s, outside {case.outside:.1%}")
    assert case.outside <= 0.1


def test_the_tensorrt_provider(bundle: Callable[..., Path]) -> None:
    if fault := provider_fault("Tensorrt"):
        pytest.skip(fault)
    path = bundle("ddim", "host")
    want = latentc_runtime.load(path, device="cpu").sample(CLASSES, SEEDS)
    got = latentc_runtime.load(path, device="tensorrt").sample(CLASSES, SEEDS)
    assert np.isfinite(got).all()
    assert_near(got, want, 1e-2)  # TensorRT multiplies in TF32 where nobody forbids it
