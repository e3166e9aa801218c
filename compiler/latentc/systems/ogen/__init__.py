"""OGEN: Overcoming the Pitfalls of Vision-Language Model Finetuning for OOD Generalization (Zang et al. 2024,
arXiv:2401.15914).

A generator makes image features of classes that have no images, from their names' text features and the features of
known classes that are like them; the classifier of all classes is trained with both.

Specs: specs/image/ogen.yaml.
Tests: tests/systems/ogen, tests/parity/ogen.py.
Row in docs/systems.yaml: ogen.
"""

COMPONENTS = {
    "networks": {
        "class_extrapolator": "class_extrapolator",
        "prompted_extrapolator": "prompted_extrapolator",
    },
    "objectives": {"ogen": "ogen"},
    "samplers": {"extrapolate": "extrapolate"},
}

CAPABILITIES = {
    # `forward`: logits of known classes, then new ones, of features f32[B, D]. `extrapolate`: a feature of each new
    # class i64[B]. `reconstruct`: features, their labels i64[B] -> logits of these features, of those made of the same
    # class, of its N neighbours, and of the N new classes that are most like it (the last over new classes); labels
    # i64[B, N] of the neighbours and of the new classes; the three kinds of made features, and the real ones of the
    # neighbours.
    "extrapolate_classes": {
        "words": "makes features of new classes from those of known ones",
        "methods": {
            "forward": "state -> logits",
            "extrapolate": "token noise -> output",
            "reconstruct": "state token noise -> logits+ token+ output+",
        },
    },
}
