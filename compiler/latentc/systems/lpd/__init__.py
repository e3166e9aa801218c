"""LPD: Locality-aware Parallel Decoding for Efficient Autoregressive Image Generation (Zhang et al. 2025,
arXiv:2507.01957).

Groups of tokens that are far apart are drawn at once, by queries of their positions.

Specs: specs/digits/digits_lpd.yaml, specs/tokens/lpd.yaml.
Tests: tests/systems/lpd, tests/parity/lpd.py.
Rows in docs/systems.yaml: lpd.
"""

COMPONENTS = {
    "networks": {"query_transformer": "query_transformer"},
    "objectives": {"grouped_token": "grouped_token"},
    "samplers": {"parallel_decoding": "parallel_decoding"},
}
