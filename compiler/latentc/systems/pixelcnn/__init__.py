"""Conditional Image Generation with PixelCNN Decoders (van den Oord et al. 2016, arXiv:1606.05328).

Gated stacks of masked convolutions draw an image value by value, from caches.

Specs: specs/tokens/pixelcnn.yaml.
Tests: tests/systems/pixelcnn, tests/test_check_refusals.py, tests/test_parameter_counts.py.
Rows in docs/systems.yaml: pixelcnn.
"""

COMPONENTS = {
    "networks": {"convolution": "convolution", "deconvolution": "deconvolution", "pixelcnn": "pixelcnn"},
    "objectives": {"pixel_likelihood": "pixel_likelihood"},
    "samplers": {"pixelwise": "pixelwise"},
}

CAPABILITIES = {
    # `forward` -> parameters of the distributions; `log_prob` -> f32[B] in nats; `draw` takes uniform numbers as noise.
    "pixels": {
        "words": "gives the distribution of each pixel from those before it",
        "methods": {
            "forward": "state condition* -> output",
            "log_prob": "state condition* -> output",
            "draw": "noise condition* -> output",
        },
    },
}
