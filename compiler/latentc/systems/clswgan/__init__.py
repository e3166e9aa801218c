"""f-CLSWGAN: Feature Generating Networks for Zero-Shot Learning (Xian et al. 2018, arXiv:1712.00981).

A Wasserstein GAN makes features of classes from their attributes; a frozen classifier judges what it makes.

Specs: specs/gan/clswgan.yaml, specs/gan/clswgan_classifier.yaml.
Tests: tests/systems/clswgan.
Rows in docs/systems.yaml: clswgan, clswgan_classifier.
"""

COMPONENTS = {
    "networks": {"mlp_classifier": "mlp_classifier"},
    "objectives/terms": {"frozen_classifier": "frozen_classifier"},
}
