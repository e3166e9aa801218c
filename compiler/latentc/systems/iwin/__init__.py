"""Iwin Transformer: Hierarchical Vision Transformer using Interleaved Windows (Huo and Li 2025, arXiv:2507.18405).

Interleaved windows with a convolution beside them, gates per branch, and the direction term of its generator's loss.

Specs: specs/diffusion/iwin.yaml, specs/diffusion/iwin_classifier.yaml.
Tests: tests/parity/iwin.py, tests/test_denoising_terms.py.
Rows in docs/systems.yaml: iwin_classifier, iwin.
"""

COMPONENTS = {
    "blocks/conditions": {"gated_branches": "gated_branches"},
    "blocks/mixers": {"interleaved_windows": "interleaved_windows"},
    "objectives/denoising_terms": {"direction": "direction"},
}
