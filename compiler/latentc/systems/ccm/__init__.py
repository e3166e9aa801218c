"""CCM: Adding Conditional Controls to Text-to-Image Consistency Models (Xiao et al. 2023, arXiv:2312.06971).

An adapter adds a control to a frozen consistency model, trained by the consistency loss.

Specs: specs/digits/digits_controlled.yaml.
Tests: tests/test_check_refusals.py, tests/systems/consistency/test_consistency.py.
Row in docs/systems.yaml: CCM (consistency models and their control adapters).
"""

COMPONENTS = {
    "networks": {"adapter": "adapter"},
}

CAPABILITIES = {
    # One output for each leading block of the network that it adapts.
    "control": {
        "words": "adds to the blocks of another network",
        "methods": {"control": "state time condition* -> output+"},
    },
}
