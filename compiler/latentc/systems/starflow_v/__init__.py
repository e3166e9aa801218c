"""STARFlow-V: End-to-End Video Generative Modeling with Normalizing Flows (Gu et al. 2025, arXiv:2511.20462).

The network that removes the noise of its flow's samples; the flow is of the core.

Specs: specs/normalizing_flow/starflow_v.yaml.
Tests: tests/systems/starflow_v, tests/parity/starflow_v.py.
Rows in docs/systems.yaml: starflow_v.
"""

COMPONENTS = {
    "networks": {"noise_estimator": "noise_estimator"},
}
