"""VAR: Visual Autoregressive Modeling via Next-Scale Prediction (Tian et al. 2024, arXiv:2404.02905).

A transformer draws the code maps of a residual quantiser from coarse to fine, a map per step.

Specs: specs/digits/digits_var.yaml, specs/digits/digits_vq_multi_scale.yaml, specs/first_stages/vq_multi_scale.yaml,
specs/tokens/var.yaml.
Tests: tests/systems/var, tests/parity/var.py.
Rows in docs/systems.yaml: var, vq_multi_scale.
"""

COMPONENTS = {
    "blocks/bottlenecks": {"multi_scale_codebook": "multi_scale_codebook"},
    "networks": {"scale_quantizer": "scale_quantizer", "scale_transformer": "scale_transformer"},
    "objectives": {"next_scale": "next_scale_objective"},
    "samplers": {"next_scale": "next_scale_sampler"},
}
