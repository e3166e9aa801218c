"""NVG: Next Visual Granularity Generation (Wang et al. 2025, arXiv:2508.12811).

A flow splits clusters of positions, a transformer draws the clusters' codes and completes the canvas, from coarse to
fine. The first stage quantises an image's residual at every granularity.

Specs: specs/tokens/nvg.yaml, specs/first_stages/vq_multi_granularity.yaml.
Tests: tests/systems/nvg, tests/parity/nvg.py.
Rows in docs/systems.yaml: nvg, vq_multi_granularity.
"""

BASES = ("var",)

COMPONENTS = {
    "blocks/bottlenecks": {"granularity_codebook": "granularity_codebook"},
    "networks": {
        "canvas_transformer": "canvas_transformer",
        "granule_quantizer": "granule_quantizer",
        "structure_transformer": "structure_transformer",
    },
    "objectives": {"next_granularity": "objective"},
    "samplers": {"next_granularity": "sampler"},
}

CAPABILITIES = {
    # Latents as state; positions: structure, stage; output: the last latents.
    "next_granules": {
        "words": "predicts the codes of clusters from the latents so far",
        "methods": {"forward": "state position position condition* -> output logits"},
    },
    # States: structure, latents; position: stage.
    "denoise_structure": {
        "words": "predicts velocities of a structure embedding from the latents so far",
        "methods": {"forward": "state state time position condition* -> output"},
    },
    # `add_0`, …: latents as state, tokens, and labels as position.
    "quantize_granules": {
        "words": "turns codes and labels of clusters into latents",
        "methods": {"canvases": "token -> output", "add_#": "state token position -> output"},
    },
}
