"""Iwin Transformer: Hierarchical Vision Transformer using Interleaved Windows (Huo and Li 2025, arXiv:2507.18405).

Interleaved windows with a convolution beside them, and gates per branch. Its generator is LightningDiT's otherwise.

Specs: specs/diffusion/iwin.yaml, specs/diffusion/iwin_classifier.yaml.
Tests: tests/parity/iwin.py, tests/components/test_staged.py.
Rows in docs/systems.yaml: iwin_classifier, iwin.
"""

COMPONENTS = {
    "blocks/conditions": {"gated_branches": "gated_branches"},
    "blocks/mixers": {"interleaved_windows": "interleaved_windows"},
}
