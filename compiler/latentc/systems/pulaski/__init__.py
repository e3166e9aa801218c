"""PULASki: Learning Inter-Rater Variability Using Statistical Distances to Improve Probabilistic Segmentation
(Chatterjee et al. 2023, arXiv:2312.15686).

A probabilistic U-Net (Kohl et al. 2018, arXiv:1806.05034) draws several plausible masks of an image; they are trained
to be distributed as those that several people drew.

Specs: specs/variational_autoencoder/pulaski.yaml, specs/digits/digits_pulaski.yaml.
Tests: tests/systems/pulaski, tests/parity/pulaski.py.
Rows in docs/systems.yaml: pulaski.
"""

COMPONENTS = {
    "networks": {"probabilistic_unet": "probabilistic_unet"},
    "objectives": {"plausible_masks": "plausible_masks"},
    "samplers": {"plausible_mask": "plausible_mask"},
}

CAPABILITIES = {
    # Means and logarithms of standard deviations f32[B, Z] of latents: of an image (`prior`), and of an image with a
    # mask (`posterior`). `features` are those of the image alone; `decode` takes them, and latents as noise, and gives
    # logits of the mask.
    "segment": {
        "words": "draws masks of an image",
        "methods": {
            "prior": "condition+ -> output output",
            "posterior": "state condition+ -> output output",
            "features": "condition+ -> output",
            "decode": "state noise -> output",
        },
    },
}
