"""Score-Based Generative Modeling through Stochastic Differential Equations (Song et al. 2021, arXiv:2011.13456).

Predictor-corrector samplers, editing of given images, and the classifier of noisy images.

Specs: specs/diffusion/score_sde.yaml, specs/diffusion/score_sde_classifier.yaml,
specs/diffusion/score_sde_guided.yaml.
Tests: tests/systems/score_sde, tests/parity/score_sde.py.
Rows in docs/systems.yaml: score_sde_classifier, score_sde, score_sde_guided.
"""

COMPONENTS = {
    "networks": {"wide_resnet": "wide_resnet"},
    "samplers": {"predictor_corrector": "predictor_corrector"},
}
