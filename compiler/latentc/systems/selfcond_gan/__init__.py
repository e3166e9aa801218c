"""Self-conditioned GAN: Diverse Image Generation via Self-Conditioned GANs (Liu et al. 2020, arXiv:2006.10728).

A conditional GAN whose classes are clusters of the discriminator's features, found again as it learns. The networks are
the authors': residual ones without norms (Mescheder et al. 2018, arXiv:1801.04406), and two forms of DCGAN.

Specs: specs/gan/selfcond_gan.yaml, specs/gan/selfcond_dcgan.yaml, specs/digits/digits_selfcond.yaml.
Tests: tests/systems/selfcond_gan.
Rows in docs/systems.yaml: selfcond_gan, selfcond_dcgan.
"""

COMPONENTS = {
    "networks": {
        "plain_residual_generator": "plain_residual_generator",
        "plain_residual_discriminator": "plain_residual_discriminator",
        "dcgan_generator": "dcgan_generator",
        "dcgan_discriminator": "dcgan_discriminator",
    },
    "objectives": {"self_conditioned": "self_conditioned"},
}

CAPABILITIES = {
    # f32[B, D], also of samples whose class is unknown.
    "describe": {"words": "gives the features that its score is linear in", "methods": {"features": "state -> output"}},
}
