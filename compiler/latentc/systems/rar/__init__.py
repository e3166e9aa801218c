"""RAR: Randomized Autoregressive Visual Generation (Yu et al. 2024, arXiv:2411.00776).

A causal transformer that is first trained on tokens in random orders, each input with the position of the token to
predict next, and ends in raster order, in which it samples.

Specs: specs/digits/digits_rar.yaml, specs/tokens/rar.yaml.
Tests: tests/systems/rar, tests/parity/rar.py.
Rows in docs/systems.yaml: rar.
"""

COMPONENTS = {
    "networks": {"permuted_transformer": "permuted_transformer"},
    "objectives": {"annealed_order": "annealed_order"},
    "samplers": {"scheduled_autoregressive": "scheduled_autoregressive"},
}

CAPABILITIES = {
    # Tokens in an order as state, all but the last, and that order as position i64[B, T]; logits in that order.
    "permuted_tokens": {
        "words": "predicts each token from those before it, in any order",
        "methods": {"permuted": "state position condition* -> logits"},
    },
}
