"""MAGE: MAsked Generative Encoder to Unify Representation Learning and Image Synthesis (Li et al. 2022,
arXiv:2211.09117).

The classifier on its encoder; the masked model itself is a `bert` of the core.

Specs: specs/tokens/mage.yaml, specs/tokens/mage_classifier.yaml.
Tests: tests/systems/mage, tests/parity/mage.py.
Rows in docs/systems.yaml: mage_classifier, mage.
"""

COMPONENTS = {
    "networks": {"token_classifier": "token_classifier"},
}
