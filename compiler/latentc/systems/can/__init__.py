"""CAN: Condition-Aware Neural Network for Controlled Image Generation (Cai et al. 2024, arXiv:2404.01143).

Layers whose weights are learned ones plus linear maps of the condition: patch embedding, attention, linear attention
(CaT). `post_norm` is a variant of the DiT that it starts from.


Specs: specs/diffusion/can.yaml.
Tests: tests/test_can.py, tests/parity/can.py.
Rows in docs/systems.yaml: can.
"""

BASES = ("lit",)

COMPONENTS = {
    "blocks/conditions": {"post_norm": "post_norm"},
    "blocks/mixers": {
        "generated_attention": "generated_attention",
        "generated_linear_attention": "generated_linear_attention",
    },
    "networks": {"can_transformer": "can_transformer"},
}
