"""AsCAN: Asymmetric Convolution-Attention Networks for Efficient Recognition and Generation (Kag et al. 2024,
arXiv:2411.04967).

Convolutional blocks early and attention late, mirrored on the way up.

Specs: specs/diffusion/ascan.yaml.
Tests: tests/components/test_staged.py.
Rows in docs/systems.yaml: ascan.
"""

COMPONENTS = {
    "networks": {"asymmetric_unet": "asymmetric_unet"},
}
