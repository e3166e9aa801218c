"""SANA: Efficient Image Synthesis with Linear Diffusion Transformers (Xie et al. 2024, arXiv:2410.10629).

A transformer with linear attention and gated convolutions over the latents of DC-AE, conditioned on a caption.

Specs: specs/diffusion/sana.yaml.
Tests: tests/systems/sana, tests/parity/sana.py.
Rows in docs/systems.yaml: sana.
"""

BASES = ("dc_ae",)

COMPONENTS = {
    "blocks/conditions": {"sana_modulation": "sana_modulation"},
    "blocks/feed_forwards": {"gated_conv": "gated_conv"},
    "blocks/mixers": {"relu_attention": "relu_attention"},
    "conditions": {"normed_features": "normed_features"},
}
