"""MDTv2: Masked Diffusion Transformer is a Strong Image Synthesizer (Gao et al. 2023, arXiv:2303.14389).

A transformer with long skip connections that also learns to denoise images of which it sees only some patches.

Specs: specs/diffusion/mdt.yaml, specs/digits/digits_mdt.yaml.
Tests: tests/systems/mdt, tests/parity/mdt.py.
Rows in docs/systems.yaml: mdt.
"""

from latentc.components.capabilities import DENOISE

COMPONENTS = {
    "blocks/mixers": {"relative_attention": "relative_attention"},
    "networks": {"mdt": "mdt"},
    "objectives": {"masked_latent_diffusion": "masked_latent_diffusion"},
    "optimizers": {"adan": "adan"},
}

CAPABILITIES = {
    # `masked_forward`, built if the objective needs it: uniform noise `mask_ratio` f32[B] and `mask_scores` f32[B, T]
    # says how many and which patches the encoder does not see.
    "denoise_masked": {
        "words": "predicts all of a noisy sample from some of its patches",
        "methods": {**DENOISE, "masked_forward?": "state time condition* noise noise -> output"},
    },
}
