"""Four-plane Factorized Video Autoencoders (Suhail et al. 2024, arXiv:2412.04452).

A volume of latents is kept as means along its axes, and a transformer denoises the vectors of these planes.

Specs: specs/first_stages/four_plane_tokenizer.yaml, specs/diffusion/four_plane.yaml,
specs/diffusion/four_plane_frames.yaml.
Tests: tests/systems/four_plane.
Rows in docs/systems.yaml: four_plane_tokenizer, four_plane, four_plane_frames.
"""

COMPONENTS = {
    "networks": {"plane_autoencoder": "plane_autoencoder"},
}
