"""LlamaGen's tokenizer (Sun et al. 2024): the StyleGAN discriminator. test_autoencoder.py has the rest."""

from __future__ import annotations

from cases import Forward

CASES = [
    Forward(
        "llamagen_vq.stylegan",
        "vq_f16",
        ("data.shape=[3, 8, 8]", "backbone.multipliers=[1, 1]", "backbone.attention=[1]", "networks.perceptual=null"),
        lambda numbers, spec: {"x": numbers.inputs["x"]},
        variant="stylegan",
        prefixes={"discriminator": ""},
        network="discriminator",
    ),
]
