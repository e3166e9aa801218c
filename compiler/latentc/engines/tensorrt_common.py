"""Shared by TensorRT and TensorRT-RTX: one API, one parser, the same kernels."""

from __future__ import annotations

from typing import Any

from latentc.engines.contract import Quantised, Unrolling

COMMON: dict[str, Any] = {
    "device": "tensorrt",
    "graph_engine": "onnxruntime",
    "precisions": ("fp32", "fp16", "bf16"),
    # Its networks are strongly typed: casts and Q/DQ must be in the graph.
    "typed": True,
    "quantised": Quantised(
        # Its parser refuses e8m0 as the type of stored scales.
        schemes=dict.fromkeys(
            ("int8", "fp8", "int4_weights", "nvfp4", "nvfp4_weights", "mxfp4_weights"), ("fp16", "bf16")
        ),
        split_heads_late=True,
    ),
    "unrolling": Unrolling(4, False, "unrolled, every evaluation makes a plan slower to build"),
    # One large matmul fills a GPU better than several small ones. Not measured.
    "fusions": ("merge_linears",),
    # Its attention operator is one kernel or fails.
    "attention": "kernel",
    # Attention in a loop does not build, and shapes of rotary embeddings are not inferred there; if it is written out
    # in half precision, TensorRT fuses the attention into the same kernels itself.
    "missing_in_loops": ("attention", "rotary"),
    "any_trip": False,
    # The runs of a step are captured as a CUDA graph. Whether a plan with a loop can be captured was not tested.
    "inner_loops": False,
    # Its parser requires a loop's condition to be always true.
    "ends_loops": False,
}
