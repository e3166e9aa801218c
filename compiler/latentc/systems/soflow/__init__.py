"""SoFlow: Solution Flow Models for One-Step Generative Modeling (Luo et al. 2025, arXiv:2512.15657).

The network learns the solution of the flow's equation from any time to any other: flow matching at one time, and
consistency of two nearby starts, without a derivative of the network.

Specs: specs/digits/digits_soflow.yaml, specs/flow/soflow.yaml.
Tests: tests/systems/soflow, tests/parity/soflow.py.
Rows in docs/systems.yaml: soflow.
"""

COMPONENTS = {"objectives": {"solution_flow": "solution_flow"}}
