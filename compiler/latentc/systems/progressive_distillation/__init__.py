"""Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho 2022, arXiv:2202.00512).

A student learns two steps of its teacher as one, round by round.

Specs: specs/digits/digits_distilled.yaml, specs/distillation/dit_progressive_distillation.yaml.
Tests: tests/docs/pages.py, tests/emit/test_rounds.py, tests/test_distillation.py.
Rows in docs/systems.yaml: dit_progressive_distillation.
"""

COMPONENTS = {
    "objectives": {"progressive_distillation": "progressive_distillation"},
}
