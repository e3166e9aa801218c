"""OpenVINO on a CPU. Measured with 2026.4 on two cores with AMX."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from latentc.engines.contract import Engine, Finding, Quantised, Triton, Unrolling, package

if TYPE_CHECKING:
    from latentc_runtime.backends.cuda import Cuda


def _doctor(gpu: Cuda | None) -> Iterator[Finding]:
    """The package, its devices, and whether this CPU computes in bfloat16."""
    row = package("openvino", "openvino", ("openvino",), "bundles for the engine openvino", ENGINE.install)
    if row.state == "ok":
        with contextlib.suppress(RuntimeError):  # its plugins are separate files
            core = sys.modules["openvino"].Core()
            bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            devices = ", ".join(core.available_devices)
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
        schemes=dict.fromkeys(("int8", "int8_weights", "int4_weights"), ("fp32", "bf16")),
        # On x86 CPUs without AMX it quantises the input of a convolution before a concatenation instead of after it
        # (batched guidance makes one, skip connections do), past products and ReLU, and then rounds to whole numbers
        # instead of multiples of the scale: a small DiT's samples had 28 dB in place of 56. It does not move it past a
        # maximum, which it fuses with the quantisation at no cost.
        moves_rounding=True,
        # A Gemm between Reshapes is expanded to full width while the graph is read; a product of [B, 1, K] stays
        # packed. Worth it for one token per run, when reading weights is most of the time.
        gemm_unpacks=True,
    ),
    unrolling=Unrolling(1, True, "unrolled, a step is hardly faster"),
    doctor=_doctor,
    fusions=(
        # A split is a copy: three products for queries, keys and values are 2 to 3 % of a step faster than one.
        "separate_linears",
        # After it, when the queries have weights of their own: saves a pass over them, 2 %.
        "query_scale",
    ),
    # Measured in bf16 alone: products that sum over 1536 or more channels run at 3/4 of the rate of 768.
    fusions_after_quantising={"bf16": ("inner_parts",)},
    # It fuses the products again, with the transpose of the keys inside: 5 % of a step of DiT-S/2.
    attention="written_out",
    # Behind a product the tanh form costs twice the erf form: 6 % of a step of DiT-S/2.
    gelu="erf",
    # It copies the caches that a loop carries in every iteration.
    kv_tiling=True,
    # It packs a constant once. If a layer has as many inputs as outputs, a transposed convolution, or a product by the
    # transpose, of the same constant reads that packed form. A classifier's gradient, full of such pairs, was wrong.
    mixes_shared_weights=True,
    # It computes what depends on no input when it compiles, and may then add to it in place: PixelCNN++'s samples,
    # whose first rows begin with zeros, were off by 3e-3 more with every run.
    overwrites_constants=True,
    # A softmax of an invariant, or a lone sum or product: in the second trip the operand is the first one's result.
    overwrites_invariants=True,
    # Refuses to compile it between other elementwise ops: "supported precisions set is not available".
    missing=("mish",),
    # Compiles, and then fails at run time; outside loops it works.
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
