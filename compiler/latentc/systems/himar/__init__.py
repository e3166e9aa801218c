"""Hi-MAR: Hierarchical Masked Autoregressive Models with Low-Resolution Token Pivots (Zheng et al. 2025, ICML).

Tokens of a small image are drawn first and are pivots of those of the large one; a small diffusion model draws each.

Specs: specs/tokens/himar.yaml, specs/digits/digits_himar.yaml.
Tests: tests/systems/himar, tests/parity/himar.py.
Rows in docs/systems.yaml: himar.
"""

COMPONENTS = {
    "networks": {"hierarchical_autoencoder": "hierarchical_autoencoder", "token_dit": "token_dit"},
    "objectives": {"pivoted_diffusion": "pivoted_diffusion"},
    "samplers": {"pivoted": "pivoted"},
}

CAPABILITIES = {
    # `pivots`: pivots [B, N, C] as state, mask f32[B, N] that is 1 where one is hidden -> [B, N + T, D]. `forward`:
    # tokens [B, T, C] as state; masks: f32[B, T] where one is hidden, f32[B, N] where a pivot is left out; features of
    # the pivots f32[B, N, D] -> [B, N + T, D].
    "hierarchical_features": {
        "words": "encodes partly hidden pivots, then a partly hidden sample, as features of each token",
        "methods": {
            "pivots": "state mask condition* -> output",
            "forward": "state mask mask features condition* -> output",
        },
    },
    # State [B, T, C]; the features of the tokens [B, T, D] are the condition `z`.
    "denoise_sequence": {
        "words": "denoises all tokens of a sample together, given the features of each",
        "methods": {"forward": "state time condition* -> output"},
    },
}
