"""Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation (Sun et al. 2024, arXiv:2406.06525).

A Llama draws tokens of images after a class or, in the captioned model, after the features of a caption; their
tokenizer has a discriminator of its own.

Specs: specs/tokens/llamagen_t2i.yaml, specs/first_stages/vq_f16.yaml.
Tests: tests/systems/llamagen, tests/components/test_against_discriminator.py.
Rows in docs/systems.yaml: llamagen_t2i.
"""

COMPONENTS = {
    "conditions": {"caption_prefix": "caption_prefix", "encoded_caption_prefix": "caption_prefix"},
    "networks": {"strided_discriminator": "strided_discriminator"},
}
