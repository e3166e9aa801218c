"""PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood (Salimans et al. 2017,
arXiv:1701.05517).

Each pixel is a mixture of logistics; drawing uses caches of rows and cells.

Specs: specs/tokens/pixelcnn_pp.yaml.
Tests: tests/systems/pixelcnn_pp, tests/parity/pixelcnn_pp.py.
Rows in docs/systems.yaml: pixelcnn_pp.
"""

BASES = ("pixelcnn",)

COMPONENTS = {
    "networks": {"pixelcnn_pp": "pixelcnn_pp"},
}
