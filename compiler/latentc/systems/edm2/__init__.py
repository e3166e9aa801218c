"""EDM2: Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al. 2024, arXiv:2312.02696).

A U-Net that preserves magnitudes, with forced weight normalisation, and a learned uncertainty per noise level.

Specs: specs/diffusion/edm2.yaml, specs/diffusion/edm2_autoguidance.yaml.
Tests: tests/systems/edm2, tests/parity/edm2.py.
Rows in docs/systems.yaml: edm2, edm2_autoguidance.
"""

COMPONENTS = {
    "conditions": {"phased_fourier": "phased_fourier"},
    "data": {"edm_latents": "edm_latents"},
    "networks": {"mp_unet": "mp_unet", "uncertainty": "uncertainty"},
    "objectives": {"uncertain_diffusion": "uncertain_diffusion"},
}

CAPABILITIES = {
    # f32[B].
    "uncertainty": {
        "words": "estimates the log-variance of a denoiser's error at a time",
        "methods": {"forward": "time -> output"},
    },
}
