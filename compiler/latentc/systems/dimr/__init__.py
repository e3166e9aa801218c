"""DiMR: Alleviating Distortion in Image Generation via Multi-Resolution Diffusion Models (Liu et al. 2024,
arXiv:2406.09416).

Branches of growing resolution refine one another; norms depend on the time or on the first token.

Specs: specs/diffusion/dimr.yaml.
Tests: tests/parity/dimr.py.
Rows in docs/systems.yaml: dimr.
"""

COMPONENTS = {
    "blocks/conditions": {"time_norm": "time_norm"},
    "blocks/mixers": {"axial_attention": "axial_rotary", "convnext_conv": "convnext_conv"},
    "blocks/norms": {
        "first_token_rms_norm": "first_token_rms_norm",
        "timed_layer_norm": "timed_norms",
        "timed_rms_norm": "timed_norms",
    },
    "conditions": {"scalar": "scalar"},
    "networks": {"multi_resolution": "multi_resolution"},
    "objectives/denoising_terms": {"multi_scale": "multi_scale"},
}
