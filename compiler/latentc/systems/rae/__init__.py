"""RAE: Diffusion Transformers with Representation Autoencoders (Zheng et al. 2025, arXiv:2510.11690).

Latents are the tokens of a frozen vision encoder; DiT-DH denoises them by a wide, shallow head on a condition encoder.

Specs: specs/flow/rae.yaml, specs/digits/digits_rae.yaml.
Tests: tests/systems/rae, tests/parity/rae.py.
Rows in docs/systems.yaml: rae.
"""

BASES = ("ddt",)

COMPONENTS = {
    "blocks/conditions": {"zero_token_adaln": "zero_token_adaln"},
    "networks": {"ditdh_transformer": "ditdh_transformer"},
    "processes": {"warped_path": "warped_path"},
    "samplers/spacings": {"warped": "warped"},
}
