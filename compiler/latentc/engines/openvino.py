"""OpenVINO on a CPU. Measured with 2026.4 on two cores with AMX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from latentc.engines.contract import Engine, Finding, Quantised, Triton, Unrolling, package
from latentc_runtime.backends.openvino import core

if TYPE_CHECKING:
    from latentc_runtime.backends.cuda import Cuda


def _doctor(gpu: Cuda | None) -> Iterator[Finding]:
    """The package, its devices, and whether this CPU computes in bfloat16."""
    row = package("openvino", "openvino", ("openvino",), "bundles for the engine openvino", ENGINE.install)
    if row.state == "ok":
        with contextlib.suppress(RuntimeError):  # its plugins are separate files
            bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            devices = ", ".join(core().available_devices)
            where = "computes bf16" if bf16 else "computes bf16 bundles in fp32"
            row = replace(row, detail=f"{row.detail}; devices {devices}; the CPU {where}")
    yield row


ENGINE = Engine(
    name="openvino",
    title="OpenVINO",
    extra="openvino",
    device="auto",
    graph_engine="openvino",
    precisions=("fp32", "bf16"),
    # Its bf16 is a hint: the graph stays float32, except for the caches that a loop carries.
    typed=False,
    quantised=Quantised(
        schemes=dict.fromkeys(
            ("int8", "int8_weights", "int4_weights", "nvfp4_weights", "mxfp4_weights"), ("fp32", "bf16")
        ),
        powers_as_scales=True,
        # On x86 CPUs without AMX it moves the quantisation of a convolution's input from after a concatenation (as in
        # batched guidance or skip connections) to before it, past matmuls and ReLU, and then rounds to integers instead
        # of multiples of the scale: samples of a small DiT dropped from 56 to 28 dB. It does not move it past a
        # maximum, which it fuses with the quantisation at no cost.
        moves_rounding=True,
        # A Gemm between Reshapes is expanded to full width while the graph is read; a matmul of [B, 1, K] stays packed.
        # Worth it for one token per run, when reading weights takes most of the time.
        gemm_unpacks=True,
    ),
    unrolling=Unrolling(1, True, "unrolled, a step is hardly faster"),
    doctor=_doctor,
    fusions=(
        # A split is a copy: three matmuls for queries, keys and values make a step 2 to 3 % faster than one.
        "separate_linears",
        # After it, if the queries have their own weights: saves a pass over them, 2 %.
        "query_scale",
    ),
    # Measured in bf16 only: matmuls that sum over 1536 or more channels run at 3/4 of the rate of those over 768.
    fusions_after_quantising={"bf16": ("inner_parts",)},
    # It fuses the matmuls again, with the transpose of the keys included: 5 % of a step of DiT-S/2.
    attention="written_out",
    # It fuses products and softmax into one attention, and tells the axes of heads and queries apart by their sizes. If
    # these are equal and queries pass through more than a scale or one function after their transposition (a norm, a
    # rotation, a sum), results are wrong by as much as their size: measured for 2 to 64 heads of 4 to 64 channels, for
    # other numbers of keys, grouped heads, with and without a mask. A single head with one query is right.
    mixes_heads_and_queries=True,
    # After a matmul the tanh form costs twice as much as the erf form: 6 % of a step of DiT-S/2.
    gelu="erf",
    # Its convolutions write channels last, its operator reads planes, and changing the layout of 64 channels takes as
    # long as convolving them: a stack at 64 × 64 runs 1.8 times as fast, wider ones 1.01 to 1.06 times.
    group_norm="by_channels",
    # It copies the caches that a loop carries in every iteration.
    kv_tiling=True,
    # It packs a constant once. If a layer has as many inputs as outputs, a transposed convolution (or a matmul with the
    # transpose) of the same constant reads that packed form. A classifier's gradient, which is full of such pairs, was
    # wrong.
    mixes_shared_weights=True,
    # It computes what depends on no input at compile time, and may later add to it in place: samples of PixelCNN++,
    # whose first rows begin with zeros, drifted by another 3e-3 with every run.
    overwrites_constants=True,
    # A softmax of an invariant, or a single sum or product: in the second iteration the operand is the first one's
    # result.
    overwrites_invariants=True,
    # Refuses to compile it between other elementwise ops: "supported precisions set is not available".
    missing=("mish",),
    # Compiles but then fails at run time; outside loops it works.
    missing_in_loops=("group_norm",),
    cpu_only=True,
    triton=Triton(
        "openvino",
        kind="KIND_CPU",
        parameters={
            "HINT_BF16": "YES",
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_BATCH_PADDING": "YES",
        },
        threads="INFERENCE_NUM_THREADS",
        precisions=("bf16",),
        why_not_ensemble="Triton's OpenVINO backend fills every batch up to the largest",
    ),
)
