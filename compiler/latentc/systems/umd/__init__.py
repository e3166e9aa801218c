"""Unified Masked Diffusion (Hansen-Estruch et al. 2024, arXiv:2406.17688).

A vision transformer denoises images and fills in hidden patches at once.

Specs: specs/diffusion/umd.yaml, specs/digits/digits_umd.yaml.
Tests: tests/systems/umd, tests/parity/umd.py.
Rows in docs/systems.yaml: umd.
"""

COMPONENTS = {
    "networks": {"masked_denoiser": "masked_denoiser"},
    "objectives": {"masked_diffusion": "masked_diffusion"},
}

CAPABILITIES = {
    # Outputs [B, 2 C, ...]: data and noise; features [B, D]; noise of a number per patch f32[B, T]; mask f32[B, T].
    "denoise_hidden": {
        "words": "predicts data and noise of partly hidden samples",
        "methods": {
            "predict": "state time time? condition* -> output features",
            "predict_hidden_#?": "state time time? condition* noise -> output features mask",
        },
    },
}
