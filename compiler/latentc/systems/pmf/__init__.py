"""pMF: pixel mean flows (Lu et al. 2026, arXiv:2601.22158).

Improved MeanFlow on pixels: the network predicts the image, from which its average velocity follows.

Specs: specs/flow/pmf.yaml, specs/digits/digits_pmf.yaml.
Tests: tests/systems/pmf, tests/parity/pmf.py.
Rows in docs/systems.yaml: pmf.
"""

BASES = ("improved_mean_flow",)

COMPONENTS = {
    "networks": {"pixel_context_transformer": "pixel_context_transformer"},
    "objectives": {"pixel_mean_flow": "pixel_mean_flow"},
    "processes": {"pixel_path": "pixel_path"},
}
