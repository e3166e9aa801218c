"""Largest allowed relative errors, by the precision of the engine and its quantisation scheme."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerance:
    """Largest relative error of one call of a network, and of a whole sampler, in which the errors of steps add up."""

    forward: float
    sampler: float


# By the precision of the engine. Token sequences have no tolerance: they are equal or not.
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(forward=1e-5, sampler=1e-4),
    # A 10-bit mantissa rounds to 5e-4, a 7-bit one to 4e-3, and a deep network accumulates some of each. DiT-S/2 with
    # random weights in OpenVINO's bf16: 1.1e-2, and 3.7e-2 at late times, whose embedding is rounded as well.
    "fp16": Tolerance(forward=5e-3, sampler=2e-2),
    "bf16": Tolerance(forward=6e-2, sampler=1e-1),
}

# For quantised layers, against the oracle, which rounds as they do. If a sum lies near the border between two numbers,
# a difference in its last digit rounds it to the other one, which spreads through the network: with the digits DiT this
# happens in one forward pass in four, by up to 6e-3 with static scales and 1.1e-2 with dynamic ones. ONNX Runtime's
# matmuls with packed weights also round their input to 8 bits, which the graph does not say.
ROUNDED: dict[str, Tolerance] = {
    **dict.fromkeys(("int8", "int8_dynamic", "int8_weights", "int4_weights"), Tolerance(forward=5e-2, sampler=1e-1)),
    **dict.fromkeys(("nvfp4_weights", "mxfp4_weights"), Tolerance(forward=5e-2, sampler=1e-1)),
    "fp8": Tolerance(forward=1e-1, sampler=2e-1),
    # Neighbours are further apart: the digits DiT in float32 differs from itself in float64 by up to 0.14 (fp8: 0.036).
    "nvfp4": Tolerance(forward=3e-1, sampler=4e-1),
}

# The same against PyTorch, which has the dequantised weights and unrounded activations: the last steps of a diffusion,
# whose outputs are small, differ most (digits DiT at t=19: 0.20 in int8, 0.48 in fp8). Only the oracle above tells
# whether an engine is right.
UNROUNDED: dict[str, Tolerance] = {
    **dict.fromkeys(("int8", "int8_dynamic"), Tolerance(forward=4e-1, sampler=2e-1)),
    **dict.fromkeys(
        ("int8_weights", "int4_weights", "nvfp4_weights", "mxfp4_weights"), Tolerance(forward=5e-2, sampler=1e-1)
    ),
    "fp8": Tolerance(forward=8e-1, sampler=2e-1),
    "nvfp4": Tolerance(forward=1.0, sampler=4e-1),
}


def tolerance_of(precision: str, scheme: str | None = None, rounded: bool = True) -> Tolerance:
    """The tolerance of engines in a precision, layers quantised by a scheme; `rounded`: so are the reference's."""
    own = TOLERANCES[precision]
    if scheme is None:
        return own
    more = (ROUNDED if rounded else UNROUNDED)[scheme]
    return Tolerance(own.forward + more.forward, own.sampler + more.sampler)
