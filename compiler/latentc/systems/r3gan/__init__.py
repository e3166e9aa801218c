"""R3GAN: The GAN is dead; long live the GAN! A Modern Baseline GAN (Huang et al. 2024, arXiv:2501.05441).

Networks of grouped residual blocks without norms, and a loss that compares samples with data in pairs, regularised at
both.

Specs: specs/gan/r3gan.yaml, specs/digits/digits_r3gan.yaml.
Tests: tests/systems/r3gan, tests/parity/r3gan.py.
Rows in docs/systems.yaml: r3gan.
"""

COMPONENTS = {
    "networks": {
        "grouped_residual_generator": "grouped_residual_generator",
        "grouped_residual_discriminator": "grouped_residual_discriminator",
    },
    "objectives/terms": {
        "relativistic_pairing": "relativistic_pairing",
        "zero_centred_penalties": "zero_centred_penalties",
    },
}
