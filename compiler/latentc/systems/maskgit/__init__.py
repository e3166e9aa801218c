"""MaskGIT: Masked Generative Image Transformer (Chang et al. 2022, arXiv:2202.04200).

The transformer of the authors' JAX code, and the Halton order of Besnier et al. 2025.

Specs: specs/digits/digits_maskgit.yaml, specs/first_stages/vq_maskgit.yaml, specs/tokens/maskgit.yaml,
specs/tokens/maskgit_jax.yaml.
Tests: tests/parity/maskgit.py, tests/samplers/test_masked.py.
Rows in docs/systems.yaml: maskgit_jax, vq_maskgit, maskgit.
"""

COMPONENTS = {
    "networks": {"masked_transformer": "masked_transformer"},
    "samplers": {"halton": "halton"},
}
