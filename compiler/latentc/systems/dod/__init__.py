"""DoD: Diffusion Models Need Visual Priors for Image Generation (Yue et al. 2024, arXiv:2410.08531).

Sampling runs in stages, each conditioned on features of the sample of the stage before.

Specs: specs/diffusion/dod.yaml, specs/digits/digits_dod.yaml.
Tests: tests/systems/dod, tests/test_check_refusals.py, tests/verify/test_systems.py.
Rows in docs/systems.yaml: dod.
"""

COMPONENTS = {
    "networks": {"map_encoder": "map_encoder"},
    "samplers": {"staged": "staged"},
}
