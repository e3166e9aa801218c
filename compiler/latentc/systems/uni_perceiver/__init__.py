"""Uni-Perceiver-MoE: Learning Sparse Generalist Models with Conditional MoEs (Zhu et al. 2022, arXiv:2206.04674).

Experts that are chosen by attributes of the tokens' parts.

Specs: specs/diffusion/uni_perceiver_moe.yaml.
Tests: tests/systems/uni_perceiver.
Rows in docs/systems.yaml: uni_perceiver_moe.
"""

COMPONENTS = {
    "networks": {"perceiver_transformer": "perceiver_transformer"},
    "blocks/feed_forwards": {"attribute_experts": "attribute_experts"},
    "blocks/mixers": {"routed_attention": "routed_attention"},
}
