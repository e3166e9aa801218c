"""MaskGen: Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware One-Dimensional Tokens (Kim et
al. 2025, arXiv:2501.07730).

An image as 128 tokens without places in it, which Stable Diffusion 3's blocks predict from the masked ones and a text.

Specs: specs/tokens/maskgen.yaml.
Tests: tests/systems/maskgen, tests/parity/maskgen.py.
Rows in docs/systems.yaml: maskgen.
"""

BASES = ("sd3", "titok")

COMPONENTS = {
    "conditions": {"sinusoidal_score": "sinusoidal_score", "text_and_pooled": "text_and_pooled"},
    "networks": {"masked_mmdit": "masked_mmdit"},
    "samplers": {"contrasted_confidence": "contrasted_confidence"},
}
