"""What losses and sampling programs are written with.

`calls`: conditions, and calls of networks by the roles of their ports. `tokens`: drawing, ranking and revealing
discrete tokens. `guidance`: scales that change over the steps. `patches`: arrays as sequences of patches. A sampler's
table is run inside a program by `samplers.program.denoise`.
"""

from latentc.components.kit.calls import (
    Conditions,
    Operands,
    both_branches,
    call,
    guided_call,
    per_sample_mean,
    state_gradient,
)

__all__ = ["Conditions", "Operands", "both_branches", "call", "guided_call", "per_sample_mean", "state_gradient"]
