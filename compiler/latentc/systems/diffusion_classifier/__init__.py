"""Your Diffusion Model is Secretly a Zero-Shot Classifier (Li et al. 2023, arXiv:2303.16203).

A program that measures how well a denoiser predicts the noise in a sample under a class.

Specs: specs/digits/digits_dit.yaml.
Tests: tests/parity/diffusion_classifier.py, tests/samplers/test_classify.py.
Row in docs/systems.yaml: Diffusion classifier.
"""

COMPONENTS = {
    "programs": {"classify": "classify"},
}
