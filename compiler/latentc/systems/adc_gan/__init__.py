"""ADC-GAN: Conditional GANs with Auxiliary Discriminative Classifier (Hou et al. 2022, arXiv:2107.10060).

The discriminator classifies classes of real and of generated images apart, in one head of twice as many classes.

Specs: specs/gan/adc_gan.yaml.
Tests: tests/emit/test_train_gans.py, tests/parity/gans.py, tests/test_class_names.py, tests/test_parameter_counts.py.
Rows in docs/systems.yaml: adc_gan.
"""

COMPONENTS = {
    "objectives/terms": {"discriminative_classifier": "discriminative_classifier"},
}
