"""D-JEPA: Denoising with a Joint-Embedding Predictive Architecture (Chen et al. 2024, arXiv:2410.03755).

Masked autoregression as MAR's, whose network also predicts features of hidden tokens; D-JEPA·T2I (arXiv:2411.14808)
reads captions.

Specs: specs/tokens/d_jepa.yaml, specs/tokens/d_jepa_t2i.yaml.
Tests: tests/systems/d_jepa, tests/quantize/test_quantize.py, tests/verify/test_systems.py.
Rows in docs/systems.yaml: d_jepa, d_jepa_t2i.
"""

COMPONENTS = {
    "networks": {"predictive_autoencoder": "predictive_autoencoder"},
    "objectives": {"predictive_diffusion": "predictive_diffusion", "token_flow": "token_flow"},
}

CAPABILITIES = {
    # `targets`: tokens [B, T, C] of a sample of which nothing is hidden -> [B, T, D]; `predict`: features [B, T, D] of
    # a partly hidden one -> their prediction of those.
    "predicted_features": {
        "words": "encodes a whole sample as features of each token, and predicts those of a hidden one",
        "methods": {"targets": "state condition* -> output", "predict": "features -> output"},
    },
}
