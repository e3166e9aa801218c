"""Scaling Rectified Flow Transformers for High-Resolution Image Synthesis (Stable Diffusion 3) (Esser et al. 2024).

Tokens of the image and of the text have weights of their own, and meet in every attention (MM-DiT, arXiv:2403.03206).

Specs: specs/diffusion/sd3.yaml, specs/digits/digits_sd3.yaml.
Tests: tests/systems/sd3, tests/parity/sd3.py.
Rows in docs/systems.yaml: sd3.
"""

COMPONENTS = {
    "conditions": {"flow_timestep": "flow_timestep", "pooled_text": "pooled_text"},
    "networks": {"mmdit": "mmdit"},
    "samplers/spacings": {"shifted_timesteps": "shifted_timesteps"},
}
