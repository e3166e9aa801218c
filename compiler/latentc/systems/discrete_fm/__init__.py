"""Discrete Flow Matching (Gat et al. 2024, arXiv:2407.15595).

Tokens move one by one from a source, masks or random tokens, to the data; jumps of a continuous-time Markov chain
sample them, perhaps with a corrector.

Specs: specs/text/discrete_fm.yaml, specs/digits/digits_discrete_fm.yaml.
Tests: tests/systems/discrete_fm, tests/parity/discrete_fm.py.
Rows in docs/systems.yaml: discrete_fm.
"""

BASES = ("mdlm",)

COMPONENTS = {
    "networks": {"timed_dit": "timed_dit"},
    "objectives": {"discrete_flow_matching": "discrete_flow_matching"},
    "samplers": {"token_jumps": "token_jumps"},
}

CAPABILITIES = {
    # The port's `null` is the mask; without one, the source is random tokens. The time is 0 at the source and 1 at the
    # data. Samplers draw among the first `values` logits, if the port gives that number.
    "denoise_tokens": {
        "words": "predicts the tokens of the data from noisy ones, given the time",
        "methods": {"forward": "state time condition* -> logits"},
    },
}
