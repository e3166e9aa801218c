"""CAN: Condition-Aware Neural Network for Controlled Image Generation (Cai et al. 2024, arXiv:2404.01143).

Weights of layers are learned ones plus linear maps of the condition.

Specs: specs/diffusion/can.yaml.
Tests: tests/test_can.py, tests/parity/can.py.
Rows in docs/systems.yaml: can.
"""

COMPONENTS = {
    "networks": {"can_transformer": "can_transformer"},
}
