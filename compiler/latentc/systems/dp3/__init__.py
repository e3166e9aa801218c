"""3D Diffusion Policy (Ze et al. 2024, arXiv:2403.03954).

A 1-D U-Net denoises a robot's actions, conditioned on an encoding of point clouds and of its own state.

Specs: specs/policy/dp3.yaml.
Tests: tests/parity/dp3.py.
Rows in docs/systems.yaml: dp3.
"""

COMPONENTS = {
    "conditions": {"sinusoidal": "sinusoidal"},
    "networks": {"conditional_unet_1d": "conditional_unet_1d", "dp3_encoder": "dp3_encoder"},
}
