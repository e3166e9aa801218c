"""RAE: Diffusion Transformers with Representation Autoencoders (Zheng et al. 2025, arXiv:2510.11690).

Latents are the tokens of a frozen vision encoder; DiT-DH denoises them by a wide, shallow head on a condition encoder.

Specs: specs/flow/rae.yaml, specs/digits/digits_rae.yaml, specs/first_stages/rae_autoencoder.yaml.
Tests: tests/systems/rae, tests/parity/rae.py.
Rows in docs/systems.yaml: rae, rae_autoencoder.
"""

BASES = ("ddt", "vfmtok")

COMPONENTS = {
    "blocks/conditions": {"zero_token_adaln": "zero_token_adaln"},
    "networks": {"ditdh_transformer": "ditdh_transformer", "feature_autoencoder": "feature_autoencoder"},
    "processes": {"warped_path": "warped_path"},
    "samplers/spacings": {"warped": "warped"},
}
