"""Smoothness Similarity Regularization for Few-Shot GAN Adaptation (Sushko et al. 2023, arXiv:2308.09717).

A generator is adapted to a few images while features of its layers keep responding to changes of the latent as those of
the generator that it starts from.

Specs: specs/gan/few_shot_biggan.yaml, specs/digits/digits_few_shot.yaml.
Tests: tests/systems/few_shot_gan.
Rows in docs/systems.yaml: few_shot_biggan.
"""

COMPONENTS = {
    "networks": {"featured_generator": "featured_generator"},
    "objectives/terms": {"smoothness": "smoothness"},
}

CAPABILITIES = {
    # As `generate`; `features`: feature maps f32[B, C, H, W] of its layers, from the first to the last.
    "generate_with_features": {
        "words": "turns noise into a sample, and shows the features of its layers",
        "methods": {"forward": "noise condition* -> output", "features": "noise condition* -> output+"},
    },
}
