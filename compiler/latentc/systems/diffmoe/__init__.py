"""DiffMoE: Dynamic Token Selection for Scalable Diffusion Transformers (Shi et al. 2025, arXiv:2503.14487).

Experts choose tokens from a pool over the whole batch.

Specs: specs/diffusion/diffmoe.yaml.
Tests: tests/parity/diffmoe.py.
Rows in docs/systems.yaml: diffmoe.
"""

COMPONENTS = {
    "blocks/feed_forwards": {"expert_choice": "expert_choice", "token_pool": "token_pool"},
}
