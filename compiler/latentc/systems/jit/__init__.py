"""JiT: Just image Transformers (Li and He 2025, arXiv:2511.13720).

A transformer over large patches of pixels predicts the image itself; the loss is that of the velocity.

Specs: specs/flow/jit.yaml, specs/digits/digits_jit.yaml.
Tests: tests/systems/jit, tests/parity/jit.py.
Rows in docs/systems.yaml: jit.
"""

COMPONENTS = {
    "networks": {"jit_transformer": "jit_transformer"},
    "objectives": {"clean_flow": "clean_flow"},
    "processes": {"clamped_path": "clamped_path"},
}
