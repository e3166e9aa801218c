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

CAPABILITIES = {
    # Controls are the outputs of the denoiser's `train_forward` after the first. The outputs are the prediction of
    # every exit, then the uncertainty f32[B] of each.
    "exit": {
        "words": "predicts from the outputs of a denoiser's blocks, with an uncertainty",
        "methods": {"forward": "time control* condition* -> output+"},
    },
}
