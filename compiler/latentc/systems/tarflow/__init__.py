"""TarFlow: Normalizing Flows are Capable Generative Models (Zhai et al. 2024, arXiv:2412.06329).

Guidance that grows from token to token; the flow and its inverse are of the core.

Specs: specs/normalizing_flow/tarflow.yaml.
Tests: tests/components/test_flows.py, tests/parity/tarflow.py.
Rows in docs/systems.yaml: tarflow.
"""

COMPONENTS = {
    "samplers": {"annealed_inverse": "annealed_inverse"},
}
