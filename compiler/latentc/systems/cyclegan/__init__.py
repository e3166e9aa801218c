"""Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al. 2017, arXiv:1703.10593).

CycleGAN: two generators, from images of one set to those of another and back, learn without pairs; what a translation
loses, the way back cannot restore. Its generators are pix2pixHD's, which took them from it. Zunair and Hamza 2020
(arXiv:2004.06824) translate benign lesions of the skin to malignant ones by it.

Specs: specs/gan/cyclegan.yaml, specs/digits/digits_cyclegan.yaml.
Tests: tests/systems/cyclegan.
Rows in docs/systems.yaml: cyclegan.
"""

BASES = ("pix2pixhd",)

COMPONENTS = {
    "data": {"unpaired_digits": "unpaired_digits", "unpaired_folders": "unpaired_folders"},
    "networks": {"instance_patch_discriminator": "instance_patch_discriminator", "sample_pool": "sample_pool"},
    "objectives": {"unpaired_translation": "unpaired_translation"},
}

CAPABILITIES = {
    # Uniform numbers f32[B] and indices i64[B] as noise; samples of both generators as states.
    "replay": {
        "words": "keeps past samples and returns them in place of new ones",
        "methods": {"forward": "state state noise noise noise noise -> output output"},
    },
}
