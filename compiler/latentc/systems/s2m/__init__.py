"""S2M: Mining Multi-Label Samples from Single Positive Labels (Cho et al. 2022, arXiv:2206.05764).

Metropolis-Hastings steps on the latent of a trained GAN draw samples that have several labels at once, or one but not
another, although each image of the data has a single label. Ratios of densities come from a classifier of three heads.

Specs: specs/gan/s2m.yaml, specs/digits/digits_s2m.yaml.
Tests: tests/systems/s2m, tests/parity/s2m.py.
Rows in docs/systems.yaml: s2m.
"""

COMPONENTS = {
    "conditions": {"label_set": "label_set"},
    "networks": {"ratio_classifier": "ratio_classifier"},
    "objectives": {"ratio_classification": "ratio_classification"},
    "samplers": {"latent_metropolis": "latent_metropolis"},
}

CAPABILITIES = {
    # The logit f32[B] of data against samples, the logits f32[B, K] of the label of data and, if the generator takes
    # the class, those of the class that a sample was made for.
    "weigh_labels": {
        "words": "tells data from samples, and predicts the labels of both",
        "methods": {"forward": "state -> output output output?"},
    },
}
