"""AugSelf-GAN: Augmentation-Aware Self-Supervision for Data-Efficient GAN Training (Hou et al. 2023, arXiv:2205.15677).

The discriminator also predicts the augmentation that was applied, from an image with and without it.

Specs: specs/gan/augself_gan.yaml.
Tests: tests/systems/augself_gan, tests/parity/gans.py, tests/test_parameter_counts.py.
Rows in docs/systems.yaml: augself_gan.
"""

COMPONENTS = {
    "objectives/terms": {"augmentation": "augmentation"},
}
