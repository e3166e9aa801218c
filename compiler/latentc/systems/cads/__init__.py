"""CADS: Unleashing the Diversity of Diffusion Models through Condition-Annealed Sampling (Sadat et al. 2023,
arXiv:2310.17347).

A program around a sampler that adds noise to the conditions in the first steps.

Specs: specs/digits/digits_dit.yaml.
Tests: tests/samplers/test_guidance_techniques.py.
Row in docs/systems.yaml: CADS (condition annealing).
"""

COMPONENTS = {
    "programs": {"annealing": "annealing"},
}
