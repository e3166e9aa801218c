"""Training Generative Adversarial Networks with Limited Data (StyleGAN2-ADA, Karras et al. 2020, arXiv:2006.06676).

Images are augmented with a probability that follows how far the discriminator overfits.

Specs: specs/digits/digits_ada.yaml.
Tests: tests/systems/ada.
Row in docs/systems.yaml: ADA (adaptive discriminator augmentation).
"""

COMPONENTS = {
    "networks": {"augmentation_probability": "augmentation_probability"},
    "objectives": {"adaptive_adversarial": "adaptive_adversarial"},
}

CAPABILITIES = {
    # The probability f32[1]: `forward` before it is moved by scores of data f32[B, 1], `current` as it is.
    "adapt_augmentation": {
        "words": "keeps the probability of augmentations",
        "methods": {"forward": "state -> output", "current": "-> output"},
    },
}
