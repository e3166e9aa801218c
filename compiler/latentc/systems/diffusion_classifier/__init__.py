"""Your Diffusion Model is Secretly a Zero-Shot Classifier (Li et al. 2023, arXiv:2303.16203).

A program that measures how well a denoiser predicts the noise in a sample under a class.

Specs: none sets it; tests and benchmarks/guidance_digits.py add it to others.
Tests: tests/parity/diffusion_classifier.py, tests/samplers/test_classify.py.
Row in docs/systems.yaml: diffusion classifier.
"""

COMPONENTS = {
    "programs": {"classify": "classify"},
}
