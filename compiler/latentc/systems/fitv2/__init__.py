"""FiTv2: Scalable and Improved Flexible Vision Transformer (Wang et al. 2024, arXiv:2410.13925).

One network for images of any size and aspect ratio: their patches are a sequence that padding fills to a fixed length,
with rotary positions by row and column. It is trained as a flow; at larger sizes, positions are extrapolated.

Specs: specs/digits/digits_fitv2.yaml, specs/flow/fitv2.yaml.
Tests: tests/systems/fitv2, tests/parity/fitv2.py.
Rows in docs/systems.yaml: fitv2.
"""

COMPONENTS = {
    "blocks/conditions": {"adaln_lora": "adaln_lora"},
    "data": {"digit_patches": "digit_patches"},
    "networks": {"fit_transformer": "fit_transformer"},
    "objectives": {"padded_flow": "padded_flow"},
}
