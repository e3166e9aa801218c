"""ReCAP: Token Reuse for Masked Image Generation (Liu et al. 2025, arXiv:2505.19089).

Samplers of masked tokens in whose steps some tokens attend to keys and values that an earlier step computed.

Specs: specs/tokens/recap.yaml, specs/tokens/recap_maskgit.yaml.
Tests: tests/samplers/test_reused_tokens.py, tests/parity/mar.py, tests/parity/maskgit_r.py.
Rows in docs/systems.yaml: recap, recap_maskgit.
"""

COMPONENTS = {
    "samplers": {"recap_autoregressive": "recap_autoregressive", "recap_confidence": "recap_confidence"},
}
