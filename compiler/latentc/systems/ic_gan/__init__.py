"""Instance-Conditioned GAN (Casanova et al. 2021, arXiv:2109.05070).

A BigGAN conditioned on the features of an instance, whose nearest neighbours are the real data.

Specs: specs/gan/ic_gan.yaml, specs/gan/ic_gan_class.yaml.
Tests: tests/parity/gans.py, tests/test_parameter_counts.py, tests/test_spec_merging.py.
Rows in docs/systems.yaml: ic_gan, ic_gan_class.
"""

COMPONENTS = {
    "conditions": {"instance": "instance"},
}
