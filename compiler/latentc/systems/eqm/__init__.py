"""Equilibrium Matching: Generative Modeling with Implicit Energy-Based Models (Wang and Du 2025, arXiv:2510.02300).

A network without the noise level as input learns a gradient that vanishes at the data; sampling descends it.

Specs: specs/flow/eqm.yaml.
Tests: tests/parity/eqm.py.
Rows in docs/systems.yaml: eqm.
"""

COMPONENTS = {
    "conditions": {"no_time": "no_time"},
    "networks": {"dispersed_transformer": "dispersed_transformer"},
    "objectives": {"equilibrium_matching": "equilibrium_matching"},
    "objectives/denoising_terms": {"dispersion": "dispersion"},
    "samplers": {"gradient_descent": "gradient_descent"},
}
