"""MDLM: Simple and Effective Masked Diffusion Language Models (Sahoo et al. 2024, arXiv:2406.07524).

Tokens masked in continuous time, a transformer that predicts them, and ancestral sampling.

Specs: specs/text/mdlm.yaml, specs/digits/digits_mdlm.yaml.
Tests: tests/systems/mdlm, tests/parity/mdlm.py.
Rows in docs/systems.yaml: mdlm.
"""

COMPONENTS = {
    "networks": {"sequence_dit": "sequence_dit"},
    "objectives": {"masked_diffusion_tokens": "masked_diffusion_tokens"},
    "samplers": {"ancestral_unmasking": "ancestral_unmasking"},
}

CAPABILITIES = {
    # The port's `null` is the mask. The time, if any, is -log of the probability that a token is not masked. Samplers
    # draw among the first `values` logits, if the port gives that number.
    "unmask_tokens": {
        "words": "predicts masked tokens from the others, perhaps given the level of noise",
        "methods": {"forward": "state time? condition* -> logits"},
    },
}
