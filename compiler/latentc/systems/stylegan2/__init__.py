"""Analyzing and Improving the Image Quality of StyleGAN (Karras et al. 2020, arXiv:1912.04958).

A generator of modulated convolutions with style mixing, and its residual discriminator.

Specs: specs/gan/stylegan2.yaml.
Tests: tests/systems/stylegan2, tests/parity/stylegan2.py.
Rows in docs/systems.yaml: stylegan2.
"""

COMPONENTS = {
    "networks": {"equalised_discriminator": "equalised_discriminator", "style_generator": "style_generator"},
    "objectives/terms": {"path_lengths": "path_lengths"},
    "samplers": {"style_based": "style_based"},
}

CAPABILITIES = {
    # `map` -> the style f32[B, W] and the average style f32[W], or f32[B, 1, W] of the class; `synthesize` takes styles
    # f32[B, L, W] as state, `synthesize_const` no noise but its own. If it is trained, `styles` -> styles of
    # the first noise of `train_forward`, whose other noise is that of `synthesize`. If the objective needs it,
    # `path_average` (state f32[B]) -> f32[1], the average of earlier lengths.
    "generate_by_style": {
        "words": "turns noise into a style, and styles into a sample",
        "methods": {
            "map": "noise condition* -> output output",
            "synthesize": "state noise* -> output",
            "synthesize_const?": "state -> output",
            "styles?": "noise+ condition* -> output",
            "path_average?": "state -> output",
        },
    },
}
