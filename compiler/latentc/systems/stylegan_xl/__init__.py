"""StyleGAN-XL: Scaling StyleGAN to Large Diverse Datasets (Sauer et al. 2022, arXiv:2202.00273).

StyleGAN3's generator of alias-free layers (Karras et al. 2021, arXiv:2106.12423) grown from stage to stage, with
the class as features of a pretrained network, against discriminators of another pretrained network's features
(projected GANs, Sauer et al. 2021, arXiv:2111.01007); a classifier guides it.

Specs: specs/gan/stylegan_xl.yaml, specs/gan/stylegan_xl_classifier.yaml.
Tests: tests/systems/stylegan_xl, tests/parity/stylegan_xl.py.
Rows in docs/systems.yaml: stylegan_xl, stylegan_xl_classifier.
"""

BASES = ("stylegan2",)

COMPONENTS = {
    "networks": {
        "alias_free_generator": "alias_free_generator",
        "efficient_classifier": "efficient_classifier",
        "projected_discriminator": "projected_discriminator",
    },
    "objectives": {"projected_adversarial": "projected_adversarial"},
    "objectives/terms": {"guiding_classifier": "guiding_classifier"},
}
