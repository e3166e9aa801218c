"""Contrastive Flow Matching (Stoica et al. 2025, arXiv:2506.05350).

Predictions are also kept away from the velocities of other samples (DeltaFM).

Specs: specs/flow/delta_fm.yaml.
Tests: tests/parity/delta_fm.py.
Rows in docs/systems.yaml: delta_fm.
"""

COMPONENTS = {
    "guidance": {"interference": "interference"},
    "networks": {"constant": "constant"},
    "objectives/denoising_terms": {"contrast": "contrast"},
}
