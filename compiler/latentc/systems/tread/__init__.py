"""TREAD: Token Routing for Efficient Architecture-agnostic Diffusion Training (Krause et al. 2025, arXiv:2501.04765).

In training, tokens chosen at random skip a range of blocks; predictions with different shares of them guide each other.

Specs: specs/flow/tread.yaml.
Tests: tests/systems/tread, tests/parity/tread.py.
Rows in docs/systems.yaml: tread.
"""

COMPONENTS = {
    "guidance": {"skipped_tokens": "skipped_tokens"},
    "networks": {"tread_transformer": "tread_transformer"},
}
