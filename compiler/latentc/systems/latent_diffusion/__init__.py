"""High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al. 2022, arXiv:2112.10752).

The U-Net whose transformers attend to a condition is the core's, as are the autoencoders; a class as a token, and a
text whose padding counts, are not.

Specs: specs/diffusion/ldm.yaml.
Tests: tests/interchange/test_ldm.py.
Row in docs/systems.yaml: ldm.
"""

COMPONENTS = {
    "conditions": {"label_token": "label_token", "padded_text": "padded_text"},
}
