"""Semi-Parametric Neural Image Synthesis (RDM, RARM) (Blattmann et al. 2022, arXiv:2204.11824).

Generators that attend to embeddings of the nearest neighbours in a database.

Specs: specs/diffusion/rdm.yaml, specs/digits/digits_rarm.yaml, specs/digits/digits_rdm.yaml, specs/tokens/rarm.yaml.
Tests: tests/systems/rdm, tests/parity/rdm.py.
Rows in docs/systems.yaml: rdm, rarm.
"""

COMPONENTS = {
    "conditions": {"neighbours": "neighbours"},
    "networks": {"retrieval_transformer": "retrieval_transformer"},
}
