"""TarFlow: Normalizing Flows are Capable Generative Models (Zhai et al. 2024, arXiv:2412.06329).

A normalising flow of causal transformers over patches, STARFlow's too, and guidance that grows from token to token.

Specs: specs/normalizing_flow/tarflow.yaml, specs/normalizing_flow/starflow.yaml,
specs/normalizing_flow/starflow_class.yaml.
Tests: tests/systems/tarflow, tests/parity/tarflow.py, tests/parity/starflow.py.
Rows in docs/systems.yaml: tarflow, starflow, starflow_class.
"""

COMPONENTS = {
    "networks": {"transformer_flow": "transformer_flow"},
    "objectives": {"flow_likelihood": "flow_likelihood"},
    "samplers": {"annealed_inverse": "flow_inverse", "flow_inverse": "flow_inverse"},
}
