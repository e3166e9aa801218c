"""Consistency Models (Song et al. 2023, arXiv:2303.01469).

Distillation of a diffusion model into a function that maps any point of a trajectory to its end, or its training from
data, on grids that grow.

Specs: specs/diffusion/cm.yaml, specs/digits/digits_consistency.yaml.
Tests: tests/systems/consistency, tests/parity/consistency.py.
Rows in docs/systems.yaml: cm, CCM (consistency models and their control adapters).
"""

COMPONENTS = {
    "objectives": {
        "consistency_distillation": "consistency_distillation",
        "consistency_training": "consistency_training",
        "easy_consistency_tuning": "easy_consistency_tuning",
    },
    "samplers": {"consistency": "consistency_sampler"},
    "samplers/spacings": {"training_levels": "training_levels"},
}
