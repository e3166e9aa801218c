"""More Control for Free! Image Synthesis with Semantic Diffusion Guidance (Liu et al. 2021, arXiv:2112.05744).

Gradients of the likeness to a text or an image guide an unconditional diffusion model.

Specs: specs/diffusion/adm_sdg.yaml, specs/image/clip_resnet_noisy.yaml.
Tests: tests/systems/sdg, tests/test_read_fields.py, tests/weights/test_shipped_maps.py.
Rows in docs/systems.yaml: clip_resnet_noisy, adm_sdg.
"""

BASES = ("clip",)

COMPONENTS = {
    "guidance/scores": {"likeness": "likeness"},
    "objectives": {"noisy_alignment": "noisy_alignment"},
}
