"""MCMI: Bayes Conditional Distribution Estimation for Knowledge Distillation Based on Conditional Mutual Information
(Ye et al. 2024, arXiv:2401.08732).

A teacher is trained for a high conditional mutual information of sample and output given the class, so that its class
probabilities differ between samples of one class and students learn more from them. The students' objective is
`knowledge_distillation` of the core.

Specs: specs/image/mcmi.yaml, specs/image/mcmi_student.yaml, specs/digits/digits_mcmi.yaml,
specs/digits/digits_mcmi_student.yaml.
Tests: tests/systems/mcmi, tests/parity/mcmi.py.
Rows in docs/systems.yaml: mcmi, mcmi_student.
"""

COMPONENTS = {
    "networks": {"class_centroids": "class_centroids"},
    "objectives": {"mcmi": "mcmi"},
}

CAPABILITIES = {
    # Class probabilities f32[B, K] and labels i64[B] -> the average of earlier probabilities of each label f32[B, K].
    "class_centroids": {
        "words": "averages class probabilities over the samples of a class",
        "methods": {"forward": "state token -> output"},
    },
}
