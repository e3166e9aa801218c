"""Slimmable Generative Adversarial Networks (Hou et al. 2021, arXiv:2012.05660).

One generator runs at several widths, each trained against a discriminator that shares most layers.

Specs: specs/gan/slimgan.yaml.
Tests: tests/systems/slimgan, tests/parity/gans.py, tests/test_parameter_counts.py.
Rows in docs/systems.yaml: slimgan.
"""

COMPONENTS = {
    "networks": {
        "slimmable_discriminator": "slimmable_discriminator",
        "slimmable_generator": "slimmable_generator",
    },
    "objectives": {"slimmable_adversarial": "slimmable_adversarial"},
    "samplers": {"slimmable_pass": "slimmable_pass"},
}

CAPABILITIES = {
    # `forward_I` is `forward` at width I, of which there are `sizes["widths"]` with `forward`.
    "generate_at_widths": {
        "words": "turns noise into a sample at several widths",
        "methods": {"forward": "noise condition* -> output"},
    },
}
