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

CAPABILITIES = {
    # Positions are the order, the mask is 1 where one token attends to another; logits by place. `group_0` starts from
    # positions and conditions; `group_1`, … take tokens, their positions, positions and caches, and return caches but
    # for the last. Groups are built if the sampler needs them.
    "any_order": {
        "words": "predicts tokens at any positions from those at any others",
        "methods": {
            "forward": "state position* mask condition* -> logits",
            "group_#?": "token* position+ condition* cache* -> logits cache*",
        },
    },
}
