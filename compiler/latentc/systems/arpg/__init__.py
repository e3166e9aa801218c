"""ARPG: Autoregressive Image Generation with Randomized Parallel Decoding (Li et al. 2025, arXiv:2503.10568).

Queries of positions, which do not see each other, attend to keys and values that causal blocks make once of the known
tokens: any number of tokens is predicted at once, in any order.

Specs: specs/digits/digits_arpg.yaml, specs/tokens/arpg.yaml.
Tests: tests/systems/arpg, tests/parity/arpg.py.
Rows in docs/systems.yaml: arpg.
"""

BASES = ("randar",)

COMPONENTS = {
    "networks": {"two_pass_transformer": "two_pass_transformer"},
    "samplers": {"randomized_decoding": "randomized_decoding"},
}
