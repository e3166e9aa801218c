"""AR-GRPO: Training Autoregressive Image Generation Models via Reinforcement Learning (Yuan et al. 2025,
arXiv:2508.06924).

A trained autoregressive model draws groups of images of a class and learns from how their rewards compare.

Specs: specs/digits/digits_ar_grpo.yaml, specs/tokens/ar_grpo.yaml.
Tests: tests/systems/ar_grpo, tests/parity/ar_grpo.py.
Rows in docs/systems.yaml: ar_grpo.
"""

COMPONENTS = {
    "objectives": {"group_relative_policy": "group_relative_policy"},
    "objectives/rewards": {"file": "file", "python": "python"},
}
