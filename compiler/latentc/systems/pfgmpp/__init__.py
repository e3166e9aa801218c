"""PFGM++: Unlocking the Potential of Physics-Inspired Generative Models (Xu et al. 2023, arXiv:2302.04265).

The process of a Poisson flow in D further dimensions, between PFGM and diffusion, and targets averaged over a batch.

Specs: specs/diffusion/pfgmpp.yaml.
Tests: tests/systems/pfgmpp, tests/parity/pfgmpp.py.
Rows in docs/systems.yaml: pfgmpp.
"""

COMPONENTS = {
    "objectives": {"stable_target": "stable_target"},
    "processes": {"pfgmpp": "pfgmpp"},
}
