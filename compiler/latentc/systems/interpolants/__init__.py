"""Stochastic Interpolants with Data-Dependent Couplings (Albergo et al. 2023, arXiv:2310.03725).

Flows from low-resolution or partly hidden images to images.

Specs: specs/digits/digits_sr.yaml, specs/flow/interpolant_inpaint.yaml, specs/flow/interpolant_sr.yaml.
Tests: tests/systems/interpolants, tests/parity/interpolants.py.
Rows in docs/systems.yaml: interpolant_sr, interpolant_inpaint.
"""

COMPONENTS = {
    "blocks/mixers": {"efficient_attention": "efficient_attention"},
    "conditions": {"learned_fourier": "learned_fourier", "masked_image": "masked_image"},
    "couplings": {"hole": "hole", "upsampled": "upsampled"},
    "networks": {"linear_attention_unet": "linear_attention_unet"},
}
