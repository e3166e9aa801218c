"""REPA: Representation Alignment for Generation (Yu et al. 2024, arXiv:2410.06940).

Projections of a block's tokens are aligned with the features of a pretrained encoder.

Specs: specs/flow/repa.yaml.
Tests: tests/parity/repa.py, tests/test_denoising_terms.py.
Rows in docs/systems.yaml: repa.
"""

COMPONENTS = {
    "networks": {"aligned_transformer": "aligned_transformer"},
    "objectives/denoising_terms": {"feature_alignment": "feature_alignment"},
}
