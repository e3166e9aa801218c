"""FlowTurbo: Towards Real-time Flow-Based Image Generation with Velocity Refiner (Zhao et al. 2024, arXiv:2409.18128).

A small refiner predicts the velocity of late steps from that of the step before.

Specs: specs/digits/digits_flowturbo.yaml, specs/flow/flowturbo.yaml.
Tests: tests/systems/flowturbo, tests/parity/flowturbo.py.
Rows in docs/systems.yaml: flowturbo.
"""

COMPONENTS = {
    "conditions": {"carried": "carried"},
    "objectives": {"velocity_refinement": "velocity_refinement"},
    "samplers": {"flow_turbo": "flow_turbo"},
}
