"""RIN: Scalable Adaptive Computation for Iterative Generation (Jabri et al. 2022, arXiv:2212.11972).

Latents read from the tokens of an image, compute and write back; samplers carry them from step to step. Coherence-aware
diffusion (systems/cad) uses this network.

Specs: specs/diffusion/rin.yaml, specs/digits/digits_rin.yaml.
Tests: tests/parity/cad.py.
Rows in docs/systems.yaml: rin.
"""

COMPONENTS = {
    "networks": {"rin": "rin"},
    "processes": {"signal": "signal"},
}
