"""STARFlow-V: End-to-End Video Generative Modeling with Normalizing Flows (Gu et al. 2025, arXiv:2511.20462).

A flow of videos whose last flow may be wider and which continues given frames, its inverse by Jacobi iterations, and a
network that removes the noise of its samples.

Specs: specs/normalizing_flow/starflow_v.yaml.
Tests: tests/systems/starflow_v, tests/parity/starflow_v.py.
Rows in docs/systems.yaml: starflow_v.
"""

BASES = ("tarflow",)

COMPONENTS = {
    "networks": {"noise_estimator": "noise_estimator", "video_flow": "video_flow"},
    "objectives": {"flow_and_denoiser": "flow_and_denoiser"},
    "samplers": {"starflow_inverse": "starflow_inverse"},
}

CAPABILITIES = {
    "estimate_noise": {
        "words": "estimates the noise that is in a sample",
        "methods": {"forward": "state condition* -> output"},
    },
    # As a flow; `extend` and `guided_extend` are its `inverse` and `guided_inverse` of the tokens after the first
    # frames, with these frames [B, C, K, H, W] as state -> all frames. Built if the sampler needs them.
    "extend_video": {
        "words": "continues a video whose first frames are given",
        "methods": {"forward": "state condition* -> output log_det", "inverse": "noise condition* -> output"},
    },
}
