"""Studying Classifier(-Free) Guidance From a Classifier-Centric Perspective (Zhao and Schwing 2025, arXiv:2503.10638).

Samples of a trained model are coupled with data, and a flow corrects them.

Specs: specs/digits/digits_postprocessed.yaml.
Tests: tests/test_postprocessing.py.
"""

COMPONENTS = {
    "couplings": {"given": "given"},
}
