"""LiT: Delving into a Simple Linear Diffusion Transformer for Image Generation (Wang et al. 2025, arXiv:2501.12976).

Linear attention with a depthwise convolution, distilled from a trained diffusion transformer.

Specs: specs/diffusion/lit.yaml, specs/diffusion/lit_t2i.yaml.
Tests: tests/systems/lit.
Rows in docs/systems.yaml: lit_t2i, lit.
"""

COMPONENTS = {
    "blocks/mixers": {"linear_attention": "linear_attention"},
    "objectives": {"hybrid_distillation": "hybrid_distillation"},
}
