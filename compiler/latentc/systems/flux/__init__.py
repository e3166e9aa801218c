"""FLUX.1, rectified flow transformers of Black Forest Labs (2024, technical description and code).

Blocks of two streams as in Stable Diffusion 3, then blocks of one in which attention and feed-forward are parallel
(Dehghani et al. 2023, arXiv:2302.05442); rotary positions of rows and columns, and the guidance scale as an input.

Specs: specs/diffusion/flux.yaml, specs/digits/digits_flux.yaml.
Tests: tests/systems/sd3, tests/parity/flux.py.
Rows in docs/systems.yaml: flux.
"""

BASES = ("sd3",)

COMPONENTS = {
    "blocks/positions": {"rope_axes": "rope_axes"},
    "conditions": {"distilled_guidance": "distilled_guidance"},
    "networks": {"flux_transformer": "flux_transformer"},
}
