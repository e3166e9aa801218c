"""ViTok: Learnings from Scaling Visual Tokenizers (Hansen-Estruch et al. 2025, arXiv:2501.09755).

A vision transformer as tokenizer of images and video, and a DiT over the sequence of its latents.

Specs: specs/diffusion/vitok.yaml, specs/first_stages/vitok_tokenizer.yaml.
Tests: tests/parity/vitok.py.
Rows in docs/systems.yaml: vitok, vitok_tokenizer.
"""

COMPONENTS = {
    "networks": {"vitok_autoencoder": "vitok_autoencoder", "vitok_transformer": "vitok_transformer"},
}
