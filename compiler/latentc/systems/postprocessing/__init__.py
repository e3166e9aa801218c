"""Studying Classifier(-Free) Guidance From a Classifier-Centric Perspective (Zhao and Schwing 2025, arXiv:2503.10638).

Samples of a trained model are coupled with data, and a flow corrects them.

Specs: specs/digits/digits_postprocessed.yaml.
Tests: tests/systems/postprocessing.
Row in docs/systems.yaml: Correction of samples by a flow, and their distance from the decision boundary.
"""

COMPONENTS = {
    "couplings": {"given": "given"},
}
