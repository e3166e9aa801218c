"""Generative Modeling via Drifting (Deng et al. 2026, arXiv:2602.04770).

A generator of one evaluation, without diffusion or a critic: in the features of a frozen network, samples drift towards
data and away from each other.

Specs: specs/image/drifting.yaml, specs/image/drifting_features.yaml, specs/digits/digits_drifting.yaml,
specs/digits/digits_drifting_features.yaml.
Tests: tests/systems/drifting, tests/parity/drifting.py.
Rows in docs/systems.yaml: drifting, drifting_features.
"""

COMPONENTS = {
    "conditions": {"drift_scale": "drift_scale"},
    "networks": {
        "drift_generator": "drift_generator",
        "masked_resnet": "masked_resnet",
        "sample_bank": "sample_bank",
    },
    "objectives": {"drifting": "drifting", "masked_reconstruction": "masked_reconstruction"},
    "samplers": {"coded_pass": "coded_pass"},
}

CAPABILITIES = {
    # Losses draw the noise as the ports say: normals of the sample's shape, and codes i64[B, N].
    "generate_of_codes": {
        "words": "turns noise and random codes into a sample",
        "methods": {"forward": "noise noise condition* -> output"},
    },
    # Arrays f32[B, T, D], each with its own number of positions T.
    "feature_maps": {"words": "gives features of a sample at several depths", "methods": {"maps": "state -> output+"}},
    # The sample is partly zeros; f32[B, C, H, W] and logits of its class.
    "fill_in": {
        "words": "fills in a partly hidden sample and classifies it",
        "methods": {"forward": "state -> output logits"},
    },
    # Samples [B, C, H, W] and classes i64[B]; uniform numbers f32[B, P] and f32[B, N] that choose the kept samples
    # f32[B, P, C, H, W] of the same class and f32[B, N, C, H, W] of any; then those that the samples replace.
    "keep_samples": {
        "words": "keeps recent data by class",
        "methods": {"forward": "state position noise noise -> output output output"},
    },
}
