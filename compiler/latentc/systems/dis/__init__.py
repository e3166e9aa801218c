"""DiS: Scalable Diffusion Models with State Space Backbone (Fei et al. 2024, arXiv:2402.05608).

A diffusion backbone whose blocks are bidirectional state space models.

Specs: specs/diffusion/dis.yaml.
Tests: tests/components/test_block_parts.py, tests/emit/test_stochastic_depth.py, tests/parity/state_space.py,
tests/test_parameter_counts.py.
Rows in docs/systems.yaml: dis.
"""

BASES = ("uvit",)

COMPONENTS = {
    "blocks/mixers": {"selective_scan": "selective_scan"},
    "networks": {"dis": "dis"},
}
