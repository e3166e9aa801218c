"""GeDi: Generative Discriminator Guided Sequence Generation (Krause et al. 2020, arXiv:2009.06367).

A class-conditional language model guides another one by the likelihood of each class.

Specs: specs/tokens/gedi.yaml.
Tests: tests/systems/gedi, tests/parity/gedi.py.
Rows in docs/systems.yaml: gedi.
"""

COMPONENTS = {
    "objectives": {"class_tokens": "class_tokens"},
    "samplers": {"gedi": "gedi"},
}
