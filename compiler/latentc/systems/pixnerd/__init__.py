"""PixNerd: Pixel Neural Field Diffusion (Wang et al. 2025, arXiv:2507.23268).

DDT's condition encoder on large patches of pixels; a small implicit function per patch, whose weights the condition
generates, predicts each pixel's velocity from its colour and place.

Specs: specs/flow/pixnerd.yaml, specs/digits/digits_pixnerd.yaml.
Tests: tests/systems/pixnerd, tests/parity/pixnerd.py.
Rows in docs/systems.yaml: pixnerd.
"""

BASES = ("ddt",)

COMPONENTS = {
    "networks": {"pixnerd_transformer": "pixnerd_transformer"},
    "samplers": {"adams_bashforth": "adams_bashforth"},
}
