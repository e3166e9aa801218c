"""CDCD: Discrete Contrastive Diffusion for Cross-Modal Music and Image Generation (Zhu et al. 2022, arXiv:2206.07771).

VQ-Diffusion, which masks and replaces tokens, trained with contrastive terms.

Specs: specs/digits/digits_cdcd.yaml, specs/tokens/cdcd.yaml.
Tests: tests/systems/cdcd, tests/parity/cdcd.py.
Rows in docs/systems.yaml: cdcd.
"""

COMPONENTS = {
    "networks": {"discrete_denoiser": "discrete_denoiser"},
    "objectives": {"mask_and_replace": "mask_and_replace_objective"},
    "samplers": {"discrete": "discrete"},
}

CAPABILITIES = {
    # Tokens as state; the port's `null` is the mask.
    "denoise_tokens": {
        "words": "predicts tokens from noisy ones and their time",
        "methods": {"forward": "state time condition* -> logits"},
    },
}
