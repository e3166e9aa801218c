"""DC-AE: Deep Compression Autoencoder for Efficient Diffusion Models (Chen et al. 2024, arXiv:2410.10733).

A convolutional autoencoder with 32 to 128 pixels per latent along each side; resampling has shortcuts without weights.

Specs: specs/first_stages/dc_ae.yaml.
Tests: tests/systems/dc_ae, tests/parity/dc_ae.py.
Rows in docs/systems.yaml: dc_ae.
"""

COMPONENTS = {
    "networks": {"deep_compression": "deep_compression"},
}
