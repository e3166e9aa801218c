"""Iwin Transformer: Hierarchical Vision Transformer using Interleaved Windows (Huo and Li 2025, arXiv:2507.18405).

The direction term of its generator's loss; the windows are a mixer of the core.

Specs: specs/diffusion/iwin.yaml, specs/diffusion/iwin_classifier.yaml.
Tests: tests/parity/iwin.py, tests/test_denoising_terms.py.
Rows in docs/systems.yaml: iwin_classifier, iwin.
"""

COMPONENTS = {
    "objectives/denoising_terms": {"direction": "direction"},
}
