"""PixelFlow: Pixel-Space Generative Models with Flow (Chen et al. 2025, arXiv:2504.07963).

One transformer runs a cascade of flows in pixels, each at twice the resolution of the last.

Specs: specs/flow/pixelflow.yaml, specs/flow/pixelflow_t2i.yaml.
Tests: tests/systems/pixelflow, tests/parity/pixelflow.py.
Rows in docs/systems.yaml: pixelflow_t2i, pixelflow.
"""

COMPONENTS = {
    "blocks/conditions": {"adaln_text": "text_branch"},
    "networks": {"cascade_transformer": "cascade_transformer"},
    "objectives": {"cascaded_flow": "cascaded_flow"},
    "samplers": {"cascade": "cascade_sampler"},
}

CAPABILITIES = {
    # Each stage is at twice the resolution of the one before; the last is called `forward`. The condition `side` f32[B]
    # is the number of patches along a side.
    "denoise_stages": {
        "words": "predicts velocities at several resolutions",
        "methods": {
            "stage_#?": "state time condition* -> output",
            "forward": "state time condition* -> output",
        },
    },
}
