"""CLIP-Guided Generative Networks for Transferable Targeted Adversarial Attacks (CGNC, Fang et al. 2024,
arXiv:2407.10179).

One generator perturbs images so that a classifier takes them for any wanted class, of which it is given CLIP's text
feature. A test of how robust classifiers are; a bound keeps the change small.

Specs: specs/image/cgnc.yaml, specs/digits/digits_cgnc.yaml, specs/digits/digits_cgnc_classifier.yaml.
Tests: tests/systems/cgnc, tests/parity/cgnc.py.
Rows in docs/systems.yaml: cgnc.
"""

COMPONENTS = {
    "networks": {"perturbation_generator": "perturbation_generator", "class_texts": "class_texts"},
    "conditions": {"class_text": "class_text"},
    "objectives": {"targeted_perturbation": "targeted_perturbation"},
    "samplers": {"perturbed_image": "perturbed_image"},
}

CAPABILITIES = {
    # An image and its wanted class as conditions; the output is what is to be added to the image.
    "perturb": {
        "words": "perturbs an image for a classifier to see a wanted class",
        "methods": {"forward": "condition+ -> output"},
    },
}
