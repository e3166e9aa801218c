"""CAD: Don't Drop Your Samples! Coherence-Aware Training Benefits Conditional Diffusion (Dufour et al. 2024,
arXiv:2405.20324).

Training and sampling are conditioned on a score of how well a caption fits its image.

Specs: specs/diffusion/cad.yaml.
Tests: tests/systems/cad, tests/parity/cad.py.
Rows in docs/systems.yaml: cad.
"""

BASES = ("rin",)

COMPONENTS = {
    "conditions": {"score": "score"},
    "guidance": {"memory": "memory"},
}
