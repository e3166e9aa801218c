"""One-Step Diffusion Distillation through Score Implicit Matching (Luo et al. 2024, arXiv:2410.16794).

A one-step student follows the difference of its own score and its teacher's, without data.

Specs: specs/digits/digits_sim.yaml.
Tests: tests/systems/sim, tests/parity/sim.py.
Row in docs/systems.yaml: Score implicit matching.
"""

COMPONENTS = {
    "objectives": {"score_implicit_matching": "score_implicit_matching"},
}
