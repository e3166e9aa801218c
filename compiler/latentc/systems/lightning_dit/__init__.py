"""LightningDiT: Reconstruction vs. Generation: Taming Optimization Dilemma in Latent Diffusion Models (Yao et al. 2025,
arXiv:2501.01423).

A DiT with the parts of newer transformers on latents of many channels (VA-VAE). Its loss also compares directions.

Specs: specs/flow/lightning_dit.yaml.
Tests: tests/parity/lightning_dit.py, tests/test_denoising_terms.py.
Rows in docs/systems.yaml: lightning_dit.
"""

COMPONENTS = {"objectives/denoising_terms": {"direction": "direction"}}
