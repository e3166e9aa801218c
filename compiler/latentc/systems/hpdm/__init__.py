"""HPDM: Hierarchical Patch Diffusion Models for High-Resolution Video Generation (Skorokhodov et al. 2024,
arXiv:2406.07792).

A network denoises a pyramid of patches of one size, each level at twice the resolution of the one before; training sees
one patch per level, sampling all. It builds on the system `rin`.

Specs: specs/diffusion/hpdm.yaml, specs/digits/digits_hpdm.yaml.
Tests: tests/systems/hpdm.
Rows in docs/systems.yaml: hpdm.
"""

BASES = ("rin",)

COMPONENTS = {
    "networks": {"patch_pyramid": "patch_pyramid"},
    "objectives": {"nested_patches": "nested_patches"},
    "samplers": {"tiled_ddim": "tiled_ddim"},
}

CAPABILITIES = {
    # `patches` takes one patch per level, x f32[B, L, C, F, r, r], and the condition `corners` f32[B, L, 2]: where it
    # begins, as fractions of the whole. `forward` takes all tiles of all levels, x f32[B, T, C, F, r, r], from the
    # coarsest level to the finest, each row by row.
    "denoise_pyramid": {
        "words": "denoises a pyramid of patches",
        "methods": {"forward": "state time condition* -> output", "patches": "state time condition* -> output"},
    },
}
