"""Analyzing and Improving the Image Quality of StyleGAN (Karras et al. 2020, arXiv:1912.04958).

A generator of modulated convolutions with style mixing, and its residual discriminator.

Specs: specs/gan/stylegan2.yaml.
Tests: tests/systems/stylegan2, tests/parity/stylegan2.py.
Rows in docs/systems.yaml: stylegan2.
"""

COMPONENTS = {
    "networks": {"equalised_discriminator": "equalised_discriminator", "style_generator": "style_generator"},
    "samplers": {"style_based": "style_based"},
}
