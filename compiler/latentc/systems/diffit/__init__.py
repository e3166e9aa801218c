"""DiffiT: Diffusion Vision Transformers for Image Generation (Hatamizadeh et al. 2024, arXiv:2312.02139).

The time enters queries, keys and values of the attention, in a transformer of latents and a U-Net of pixels.

Specs: specs/diffusion/diffit.yaml, specs/diffusion/diffit_image.yaml.
Tests: tests/parity/diffit.py.
Rows in docs/systems.yaml: diffit, diffit_image.
"""

COMPONENTS = {
    "networks": {"diffit_transformer": "diffit_transformer", "diffit_unet": "diffit_unet"},
    "blocks/conditions": {"qkv_bias": "qkv_bias"},
    "blocks/mixers": {"time_attention": "time_attention"},
}
