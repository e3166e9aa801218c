"""SEDD: Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al. 2024,
arXiv:2310.16834).

A continuous-time Markov chain that masks tokens or replaces them by random ones, trained by score entropy.

Specs: specs/text/sedd.yaml, specs/digits/digits_sedd.yaml.
Tests: tests/systems/sedd, tests/parity/sedd.py.
Rows in docs/systems.yaml: sedd.
"""

BASES = ("mdlm",)

COMPONENTS = {
    "networks": {"score_dit": "score_dit"},
    "objectives": {"score_entropy": "score_entropy"},
    "samplers": {"ratio_steps": "ratio_steps"},
}

CAPABILITIES = {
    # The port's `null` is the mask; without one, tokens are replaced by random ones. The time is the total noise sigma.
    # The logits are log ratios of the probability of each value of a token to that of its own, which is 0.
    "score_tokens": {
        "words": "estimates how much likelier other values of noisy tokens are, given the level of noise",
        "methods": {"forward": "state time condition* -> logits"},
    },
}
