"""KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation (Chi et al. 2022, arXiv:2205.09921).

Attention whose scores depend on the distance between tokens; it replaces the mixer of a token transformer.

Specs: specs/digits/digits_llamagen.yaml.
Tests: tests/components/test_score_kernels.py.
Rows in docs/systems.yaml: KERPLE (kernels of the distance between tokens).
"""

COMPONENTS = {
    "blocks/mixers": {"kerple_attention": "kerple_attention"},
    "blocks/score_kernels": {"kerple_log": "kerple_log", "kerple_power": "kerple_power"},
}
