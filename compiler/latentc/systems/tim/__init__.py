"""TiM: Transition Models (Wang et al. 2025, arXiv:2509.04394).

The network goes from any time to any earlier one, by average velocities; the derivative in its loss is a central
difference. Queries, keys and values depend on the length of the step.

Specs: specs/digits/digits_tim.yaml, specs/flow/tim.yaml.
Tests: tests/systems/tim, tests/parity/tim.py.
Rows in docs/systems.yaml: tim.
"""

BASES = ("mean_flow", "repa")

COMPONENTS = {
    "blocks/conditions": {"gated_adaln": "gated_adaln"},
    "blocks/mixers": {"distance_attention": "distance_attention"},
    "networks": {
        "aligned_transition_transformer": "transition_transformer",
        "transition_transformer": "transition_transformer",
    },
    "objectives": {"transition": "transition"},
    "samplers": {"stochastic_flow_map": "stochastic_flow_map"},
}
