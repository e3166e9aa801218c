"""Return of Unconditional Generation: A Self-supervised Representation Generation Method (Li, Katabi and He 2023,
arXiv:2312.03701).

A small model draws representations of images, and any generator turns them into images.

Specs: specs/diffusion/rcg.yaml, specs/diffusion/rcg_ldm.yaml, specs/tokens/rcg_mage.yaml.
Tests: tests/parity/rcg.py, tests/test_priors.py.
Rows in docs/systems.yaml: rcg, rcg_ldm, rcg_mage.
"""

COMPONENTS = {
    "conditions": {"representation": "representation"},
    "networks": {"vector_mlp": "vector_mlp"},
}
