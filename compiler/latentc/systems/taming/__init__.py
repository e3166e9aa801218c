"""Taming Transformers for High-Resolution Image Synthesis (Esser et al. 2021, arXiv:2012.09841).

The Gumbel codebook of its VQGAN, layouts of scenes as tokens, and the sampler of larger images in sliding windows; the
transformer is the core's `language_model`.

Specs: specs/first_stages/vqgan_segmentation.yaml, specs/first_stages/vqgan_taming.yaml, specs/tokens/taming.yaml,
specs/tokens/taming_depth.yaml, specs/tokens/taming_scenes.yaml.
Tests: tests/systems/taming, tests/parity/taming.py.
Rows in docs/systems.yaml: vqgan_segmentation, taming_depth, vqgan_taming, taming, taming_scenes.
"""

COMPONENTS = {
    "blocks/bottlenecks": {"gumbel_codebook": "gumbel_codebook"},
    "blocks/mixers": {"prefix_attention": "prefix_attention"},
    "samplers": {"sliding": "sliding"},
}
