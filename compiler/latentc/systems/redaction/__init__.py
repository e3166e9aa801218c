"""Data Redaction from Conditional Generative Models (Kong and Chaudhuri 2023, arXiv:2305.11351).

A trained model is taught to answer some conditions with the samples of others.

Specs: specs/digits/digits_redacted.yaml.
Tests: tests/systems/redaction.
Rows in docs/systems.yaml: Redaction of classes, Redaction of words.
"""

COMPONENTS = {
    "objectives": {"redaction": "redaction"},
}
