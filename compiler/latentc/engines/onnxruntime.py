"""ONNX Runtime: the reference engine, on a CPU or an NVIDIA GPU. Measured with 1.32 on two cores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentc.engines.contract import Engine, Finding, Quantised, Triton, Unrolling, package

if TYPE_CHECKING:
    from latentc_runtime.backends.cuda import Cuda

_GPU_BUILD = 'pip uninstall -y onnxruntime && pip install "latentc[gpu]"'


def _doctor(gpu: Cuda | None) -> Iterator[Finding]:
    """The package, then each GPU provider: in this build or not, and whether it opens."""
    distributions = ("onnxruntime", "onnxruntime-gpu")
    row = package("onnxruntime", "onnxruntime", distributions, "sample, verify, bench", ENGINE.install)
    if row.state != "ok":
        yield row
        return
    ort: Any = sys.modules["onnxruntime"]
    available = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    yield replace(row, detail=f"{row.detail}; providers {', '.join(available)}")
    for provider, libraries in (("CUDA", "CUDA and cuDNN"), ("Tensorrt", "TensorRT")):
        name = f"onnxruntime {provider}"
        if provider not in available:
            why = "this build is for CPUs" + ("" if gpu else ", and no GPU was found")
            yield Finding(name, "missing", why, f"run `{_GPU_BUILD}`")
        elif not _opens(ort, f"{provider}ExecutionProvider"):
            mend = "see `nvidia-smi` for the driver, and ONNX Runtime's requirements for the versions it needs"
            yield Finding(name, "missing", f"it does not find a GPU, or {libraries}", mend)
        else:
            yield Finding(name, "ok", "runs a tiny graph")


def _opens(ort: Any, provider: str) -> bool:
    """True if a session really gets a provider that its build has."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
        return provider in session.get_providers()
    except Exception:  # ONNX Runtime's exceptions have no common base
        return False


ENGINE = Engine(
    name="onnxruntime",
    title="ONNX Runtime",
    extra="cpu",
    device="auto",
    graph_engine="onnxruntime",
    # Its CPU provider has no bfloat16 matmul.
    precisions=("fp32", "fp16"),
    typed=True,
    quantised=Quantised(
        schemes=dict.fromkeys(
            ("int8", "int8_dynamic", "int8_weights", "int4_weights", "nvfp4_weights", "mxfp4_weights"), ("fp32",)
        ),
        # x86 multiplies u8 by i8, and ONNX Runtime finds no such product in Q/DQ around a Gemm.
        operators=True,
        convolutions=False,
        single_rows=True,
    ),
    unrolling=Unrolling(
        4, False, "unrolled, a step is hardly faster, but the graph grows by one network per evaluation"
    ),
    doctor=_doctor,
    # No merge_linears: merged queries, keys and values, or w1 and w3, ran at 0.91 to 1.07 times the speed.
    fusions=(),
    # Its operator is off by up to 8e-8, however small the result: see `passes/sigmoid.py`.
    sigmoid="written_out",
    # It has no kernel for the operator, and its own decomposition is 2 to 10 % of a stack of convolutions slower.
    group_norm="by_channels",
    # The only engine that supports data-dependent shapes everywhere.
    sparse_experts=("fp32",),
    triton=Triton("onnxruntime", threads="intra_op_thread_count", folder=True),
)
