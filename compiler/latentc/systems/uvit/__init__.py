"""All are Worth Words: A ViT Backbone for Diffusion Models (U-ViT) (Bao et al. 2022, arXiv:2209.12152).

A transformer over all inputs as tokens, with long skip connections.

Specs: specs/diffusion/uvit.yaml, specs/digits/digits_uvit.yaml.
Tests: tests/parity/uvit.py.
Rows in docs/systems.yaml: uvit.
"""

COMPONENTS = {
    "networks": {"uvit": "uvit"},
}
