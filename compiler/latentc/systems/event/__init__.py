"""User-defined Event Sampling and Uncertainty Quantification in Diffusion Models for Physical Dynamical Systems
(Finzi et al. 2023, arXiv:2306.07526).

Guidance by the probability of an event, such as that of a maximum above a bound.

Specs: specs/digits/digits_dit.yaml.
Tests: tests/samplers/test_score_guidance.py.
Rows in docs/systems.yaml: Events of physical systems.
"""

COMPONENTS = {
    "guidance/scores": {"event": "event"},
}
