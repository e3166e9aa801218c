"""Inductive Moment Matching (Zhou et al. 2025, arXiv:2503.07565).

The network goes from any time to any earlier one. It learns that samples that start at t and at a time r shortly before
it have the same distribution at s: by the maximum mean discrepancy of groups of samples, the particles.

Specs: specs/digits/digits_imm.yaml, specs/flow/imm.yaml.
Tests: tests/systems/imm, tests/parity/imm.py.
Rows in docs/systems.yaml: imm.
"""

COMPONENTS = {
    "conditions": {"scaled_span": "scaled_span"},
    "objectives": {"moment_matching": "moment_matching"},
    "processes": {"scaled_path": "scaled_path"},
}
