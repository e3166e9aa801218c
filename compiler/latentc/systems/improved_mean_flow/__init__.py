"""Improved Mean Flows (Geng et al. 2025, arXiv:2512.02012).

MeanFlow as a regression of the velocity; guidance scale and interval are conditions, given as tokens.

Specs: specs/digits/digits_improved_mean_flow.yaml, specs/flow/improved_mean_flow.yaml.
Tests: tests/systems/improved_mean_flow, tests/emit/test_parallel.py, tests/emit/test_train_failures.py,
tests/measure/test_given_inputs.py, tests/parity/imf.py.
Rows in docs/systems.yaml: improved_mean_flow.
"""

BASES = ("mean_flow",)

COMPONENTS = {
    "networks": {"context_transformer": "context_transformer"},
    "objectives": {"improved_mean_flow": "improved_mean_flow"},
}
