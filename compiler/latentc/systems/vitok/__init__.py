"""ViTok: Learnings from Scaling Visual Tokenizers (Hansen-Estruch et al. 2025, arXiv:2501.09755).

A vision transformer as tokenizer of images and video, and a DiT over the sequence of its latents; attention with rotary
positions at learned frequencies.

Specs: specs/diffusion/vitok.yaml, specs/first_stages/vitok_tokenizer.yaml.
Tests: tests/components/test_query_autoencoder.py, tests/parity/vitok.py.
Rows in docs/systems.yaml: vitok, vitok_tokenizer.
"""

COMPONENTS = {
    "blocks/mixers": {"mixed_rotary_attention": "mixed_rotary"},
    "networks": {
        "vitok_autoencoder": "vitok_autoencoder",
        "vitok_discriminator": "vitok_discriminator",
        "vitok_transformer": "vitok_transformer",
    },
}
