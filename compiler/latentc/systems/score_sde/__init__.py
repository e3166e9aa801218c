"""Score-Based Generative Modeling through Stochastic Differential Equations (Song et al. 2021, arXiv:2011.13456).

Losses that bound the likelihood, predictor-corrector samplers, solvers of the probability flow that denoise last,
editing of given images, NCSN's noise levels, and the classifier of noisy images.

Specs: specs/diffusion/score_sde.yaml, specs/diffusion/score_sde_classifier.yaml,
specs/diffusion/score_sde_guided.yaml.
Tests: tests/systems/score_sde, tests/parity/score_sde.py.
Rows in docs/systems.yaml: score_sde_classifier, score_sde, score_sde_guided.
"""

COMPONENTS = {
    "networks": {"wide_resnet": "wide_resnet"},
    "objectives": {"score_matching": "score_matching"},
    "processes": {"geometric": "geometric"},
    "samplers": {
        "denoised_dopri5": "denoised_dopri5",
        "predictor_corrector": "predictor_corrector",
        "probability_flow": "probability_flow",
    },
}
