"""DeeDiff: Dynamic Uncertainty-Aware Early Exiting for Accelerating Diffusion Model Generation (Tang et al. 2023,
arXiv:2309.17074).

Each block has an exit with an estimate of its uncertainty, which decides where an evaluation ends.

Specs: specs/digits/digits_deediff.yaml.
Tests: tests/systems/deediff, tests/emit/test_project.py.
Row in docs/systems.yaml: DeeDiff (early exits by uncertainty).
"""

COMPONENTS = {
    "networks": {"early_exits": "early_exits"},
    "objectives/denoising_terms": {"early_exit": "early_exit"},
    "programs": {"exit": "exit"},
}
