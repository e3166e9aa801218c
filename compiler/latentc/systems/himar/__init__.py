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
