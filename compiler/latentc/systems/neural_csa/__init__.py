"""A Neural Framework for Generalized Causal Sensitivity Analysis (Frauen et al. 2024, arXiv:2311.16026).

Flows bound treatment effects under unobserved confounding, by an augmented Lagrangian.

Specs: specs/normalizing_flow/neural_csa.yaml, specs/normalizing_flow/neural_csa_continuous.yaml.
Tests: tests/systems/neural_csa, tests/parity/neural_csa.py.
Rows in docs/systems.yaml: neural_csa_continuous, neural_csa.
"""

COMPONENTS = {
    "networks": {"condition_mlp": "condition_mlp", "condition_table": "condition_table", "spline_flow": "spline_flow"},
    "objectives": {"sensitivity_bounds": "sensitivity_bounds"},
    "samplers": {"causal_bounds": "causal_bounds"},
}

CAPABILITIES = {
    # The log-determinant f32[B] is of all dimensions.
    "shift": {
        "words": "maps noise to samples with a known log-determinant",
        "methods": {"shift": "noise condition* -> output log_det"},
    },
}
