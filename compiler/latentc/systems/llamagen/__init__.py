"""Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (Sun et al. 2024, arXiv:2406.06525).

A Llama draws tokens of images after a class or, in the captioned model, after the features of a caption.

Specs: specs/tokens/llamagen_t2i.yaml.
Tests: tests/systems/llamagen.
Rows in docs/systems.yaml: llamagen_t2i.
"""

COMPONENTS = {
    "conditions": {"caption_prefix": "caption_prefix"},
}
