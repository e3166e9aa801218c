"""FractalGen: Fractal Generative Models (Li et al. 2025, arXiv:2502.17437).

Pixels by generators within generators: each level generates the patches of an image, autoregressively or masked, and
the next level generates each patch the same way, down to the colours of a pixel.

Specs: specs/tokens/fractalgen.yaml, specs/digits/digits_fractalgen.yaml.
Tests: tests/systems/fractalgen, tests/parity/fractalgen.py.
Rows in docs/systems.yaml: fractalgen.
"""

COMPONENTS = {
    "networks": {"fractal_transformer": "fractal_transformer"},
    "objectives": {"fractal_pixel": "fractal_pixel"},
    "samplers": {"fractal": "fractal"},
}

CAPABILITIES = {
    # Features f32[B, n, D] are n vectors that condition a patch. `level_#`: the patches f32[B, T, P] of a level, with a
    # mask f32[B, T] of those that are hidden or, without it, each predicted from those before -> f32[B, T, n, D].
    # `next_#`, of the latter: the patch before f32[B, P], the position i64[] and a cache -> f32[B, 1, n, D], the cache.
    # `pixels`: values i64[B, C] of a pixel -> logits f32[B, C, V] of each given those before.
    "fractal": {
        "words": "generates patches within patches down to pixels",
        "methods": {
            "embed": "condition* -> features",
            "level_#": "state mask? features -> features",
            "next_#?": "state position features cache+ -> features cache+",
            "pixels": "token features -> logits",
        },
    },
}
