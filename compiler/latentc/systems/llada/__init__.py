"""LLaDA: Large Language Diffusion Models (Nie et al. 2025, arXiv:2502.09992).

A bidirectional Llama trained by masked diffusion, and sampling of blocks that keeps the most confident tokens.

Specs: specs/text/llada.yaml.
Tests: tests/systems/llada.
Rows in docs/systems.yaml: llada.
"""

BASES = ("mdlm",)

COMPONENTS = {
    "networks": {"masked_llama": "masked_llama"},
    "samplers": {"semi_autoregressive": "semi_autoregressive"},
}
