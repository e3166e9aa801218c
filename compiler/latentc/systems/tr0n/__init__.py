"""TR0N: Translator Networks for 0-Shot Plug-and-Play Conditional Generation (Liu et al. 2023, arXiv:2304.13742).

A network translates conditions into latents of a frozen generator, which Langevin steps then refine.

Specs: specs/digits/digits_tr0n.yaml.
Tests: tests/systems/tr0n.
Row in docs/systems.yaml: TR0N (translators into a generator's latent).
"""

COMPONENTS = {
    "networks": {"latent_translator": "latent_translator"},
    "objectives": {"latent_translation": "latent_translation"},
    "samplers": {"latent_langevin": "latent_langevin"},
}

CAPABILITIES = {
    # `forward`: condition f32[B, E] -> logits f32[B, M] and means f32[B, M, Z] of a mixture of Gaussians; `log_prob`:
    # latents f32[B, Z] as state, condition -> f32[B].
    "translate": {
        "words": "predicts the latent of a generator from a condition",
        "methods": {"forward": "condition -> output output", "log_prob": "state condition -> output"},
    },
}
