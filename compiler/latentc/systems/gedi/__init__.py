"""GeDi: Generative Discriminator Guided Sequence Generation (Krause et al. 2020, arXiv:2009.06367).

A class-conditional language model guides another one by the likelihood of each class.

Specs: specs/tokens/gedi.yaml.
Tests: tests/systems/gedi, tests/parity/gedi.py.
Rows in docs/systems.yaml: gedi.
"""

COMPONENTS = {
    "networks": {"class_language_model": "class_language_model"},
    "objectives": {"class_tokens": "class_tokens"},
    "samplers": {"gedi": "gedi"},
}

CAPABILITIES = {
    # `score` -> log-probability of the prompt f32[B] and its number of tokens f32[B]; `weigh` (state f32[B, K]) ->
    # scores of each class.
    "weigh_classes": {
        "words": "scores a prompt, and classes by the scores of their sequences",
        "methods": {"score": "condition* -> output output", "weigh": "state condition* -> output"},
    },
}
