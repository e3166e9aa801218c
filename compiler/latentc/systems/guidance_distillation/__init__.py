"""On Distillation of Guided Diffusion Models (Meng et al. 2023, arXiv:2210.03142).

The student predicts what two evaluations of its teacher give under guidance of any scale.

Specs: specs/digits/digits_guided.yaml, specs/distillation/dit_guidance_distillation.yaml.
Tests: tests/docs/pages.py, tests/emit/test_rounds.py, tests/samplers/test_guidance.py, tests/test_distillation.py.
Rows in docs/systems.yaml: dit_guidance_distillation.
"""

COMPONENTS = {
    "objectives": {"guidance_distillation": "guidance_distillation"},
}
