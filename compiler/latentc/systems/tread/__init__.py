"""TREAD: Token Routing for Efficient Architecture-agnostic Diffusion Training (Krause et al. 2025, arXiv:2501.04765).

In training, tokens chosen at random skip a range of blocks.

Specs: specs/flow/tread.yaml.
Tests: tests/systems/tread, tests/parity/tread.py.
Rows in docs/systems.yaml: tread.
"""

COMPONENTS = {
    "networks": {"tread_transformer": "tread_transformer"},
}
