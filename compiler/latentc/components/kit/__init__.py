"""Building blocks of losses and sampling programs.

`calls`: conditions, and calls of networks by the roles of their ports. `tokens`: drawing, ranking and revealing
discrete tokens. `patches`: arrays as sequences of patches. `samplers.program.denoise` runs a sampler's table inside a
program.
"""

from latentc.components.kit.calls import (
    Conditions,
    Operands,
    both_branches,
    call,
    derivative_along,
    first_channels,
    guided_call,
    per_sample_mean,
    state_gradient,
    training_method,
    training_noise,
)

__all__ = [
    "Conditions",
    "Operands",
    "both_branches",
    "call",
    "derivative_along",
    "first_channels",
    "guided_call",
    "per_sample_mean",
    "state_gradient",
    "training_method",
    "training_noise",
]
