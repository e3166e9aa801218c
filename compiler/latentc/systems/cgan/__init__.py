"""Conditional Generative Adversarial Nets (Mirza and Osindero 2014, arXiv:1411.1784).

The first GAN of classes: multilayer perceptrons, uniform noise, and a discriminator of maxout layers.

Specs: specs/gan/cgan.yaml, specs/digits/digits_cgan.yaml.
Tests: tests/systems/cgan.
Rows in docs/systems.yaml: cgan.
"""

COMPONENTS = {
    "networks": {"hypercube_generator": "hypercube_generator", "maxout_discriminator": "maxout_discriminator"}
}
