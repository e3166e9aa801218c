"""Small systems for tests on a GPU, how near their samples are, and whether ONNX Runtime has the GPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

TINY = ("backbone.width=64", "backbone.depth=2")
SYSTEMS = {
    "ddim": ("digits_dit", *TINY, "sampler.steps=6"),
    "ddpm": ("digits_dit", *TINY, "sampler={kind: ddpm, steps: 6, guidance: {scale: 2.0}}"),  # noise a step
    "unipc": ("digits_dit", *TINY, "sampler={kind: unipc, steps: 6}"),  # holds values over steps
    "tokens": ("digits_llamagen", "backbone.depth=2"),
}
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
CLASSES, SEEDS = [3, 1, 9, 0, 7], [7, 2**63, 7, 0, 5]


@functools.cache
def provider_fault(name: str) -> str | None:
    """Why ONNX Runtime has no working `name`ExecutionProvider here; None where it has."""
    import onnxruntime
    from onnx import TensorProto, helper

    if f"{name}ExecutionProvider" not in onnxruntime.get_available_providers():
        return f'ONNX Runtime has no {name} provider: pip install "latentc[gpu]" in place of onnxruntime'
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "g", [x], [y]), ir_version=10)
    model.opset_import[0].version = 20
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[f"{name}ExecutionProvider"])
    return None if f"{name}ExecutionProvider" in session.get_providers() else f"the {name} provider finds no GPU"


def assert_near(got: Any, want: Any, tolerance: float) -> None:
    """Samples within a relative error; tokens of which at most one in a hundred differs (a tie decided otherwise)."""
    if want.dtype.kind == "i":
        assert np.mean(got != want) <= (0 if tolerance <= 1e-4 else 0.01)
    else:
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
